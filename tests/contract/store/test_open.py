"""Opening, closing, and what is there afterwards: after a restart and after a kill."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.protocol import Log
from dispatcher.store.access import Account, BrowserSession
from dispatcher.store.base import Store
from dispatcher.store.errors import StoreUnavailable
from dispatcher.store.records import State, Verdict
from tests.contract.store.cases import (
    ACCOUNT,
    ANSWER,
    CANCELLED,
    LOST,
    NODE,
    REVISION,
    accepted,
    audit_line,
    body_of,
    claim_one,
    new_function,
    new_task,
    new_token,
    task_id,
)
from tests.contract.store.stores import STORES


async def test_answers_when_it_is_open(store: Store) -> None:
    """A store that is open and migrated answers `ping`, as often as it is asked."""
    await store.ping()
    await store.ping()


async def test_is_unavailable_before_and_after(make: Callable[[Path], Store], tmp_path: Path) -> None:
    """Nothing hangs on a store that is not open: it says that it is unavailable. Closing twice is no error."""
    store = make(tmp_path)
    with pytest.raises(StoreUnavailable):
        await store.ping()
    await store.open()
    await store.close()
    await store.close()
    with pytest.raises(StoreUnavailable):
        await store.create_task(new_task())
    with pytest.raises(StoreUnavailable):
        await store.queued()


async def test_close_commits_what_is_under_way(make: Callable[[Path], Store], tmp_path: Path) -> None:
    """Writes that wait when the store closes are made, and answered."""
    store = make(tmp_path)
    await store.open()
    writes = [asyncio.create_task(store.create_task(new_task(number))) for number in range(1, 200)]
    await asyncio.sleep(0)
    await store.close()
    assert await asyncio.gather(*writes) == [task_id(number) for number in range(1, 200)]
    await store.open()
    assert await store.queued() == [(REVISION, ACCOUNT, 199)]
    await store.close()


async def test_a_cancelled_caller_harms_nobody(store: Store) -> None:
    """A caller that goes away while its write waits leaves the others' writes and the store as they are."""
    writes = [asyncio.create_task(store.create_task(new_task(number))) for number in range(1, 100)]
    await asyncio.sleep(0)
    for write in writes[::2]:
        write.cancel()
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert all(result == task_id(number) for number, result in enumerate(results, 1) if number % 2 == 0)
    assert await store.create_task(new_task(1000)) == task_id(1000)


async def test_everything_is_there_after_reopening(make: Callable[[Path], Store], tmp_path: Path) -> None:
    """Accounts, functions, nodes, and tasks in every state are the same before a restart and after it."""

    async def all_of(store: Store) -> list[object]:
        return [
            await store.token_of(b"t"),
            await store.account_of_join_token(b"j", 5),
            await store.account(ACCOUNT),
            await store.browser_session(b"b"),
            await store.audit(ACCOUNT, 10, None),
            await store.functions(ACCOUNT, 10, None),
            await store.nodes(ACCOUNT, 10, None),
            [await store.task(ACCOUNT, task_id(number)) for number in range(1, 7)],
            await store.result(ACCOUNT, task_id(4)),
            await store.log(ACCOUNT, task_id(4)),
            await store.queued(),
            await store.leased(),
        ]

    store = make(tmp_path)
    await store.open()
    await store.add_account(Account(ACCOUNT, "name"))
    await store.add_token(new_token(1), b"t", audit_line(1))
    await store.add_browser_session(BrowserSession(task_id(1), 1, 10), b"b")
    await store.add_join_token(b"j", ACCOUNT, 1, 10)
    await store.add_function(new_function())
    await store.join_node(NODE, ACCOUNT, "a node", b"c", 1)
    await store.node_seen(NODE, 5, "1.0", b"{}")
    leases = [await accepted(store, number) for number in range(1, 5)]
    await store.progress(leases[0], "running", 40, "words")
    await store.lose(leases[1], LOST)
    await store.cancel(ACCOUNT, leases[2].task, CANCELLED)
    await store.finish(leases[3], NODE, replace(ANSWER, log=Log(b"head", 3, b"tail")))
    await store.create_task(new_task(5, replace(REVISION, number=2)))
    await claim_one(store, 5, revision=replace(REVISION, number=2))
    await store.create_task(new_task(6))
    before = await all_of(store)
    await store.close()
    again = make(tmp_path)
    await again.open()
    assert await all_of(again) == before
    assert await again.finish(leases[1], NODE, ANSWER) is Verdict.RECORDED
    assert await again.finish(leases[3], NODE, ANSWER) is Verdict.REPEATED
    await again.close()


@pytest.mark.parametrize("name", STORES)
async def test_what_was_acknowledged_survives_a_kill(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A process is killed amid its writes: whatever its store had acknowledged is there, and nothing by halves."""
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.contract.store.stores", name, str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
        cwd=request.config.rootpath,
    )
    assert program.stdout is not None
    lines: list[list[str]] = []
    async with asyncio.timeout(30):
        while sum(line[0] == "written" for line in lines) < 3 or len(lines) < 600:
            lines.append((await program.stdout.readline()).decode().split())
    os.kill(program.pid, signal.SIGKILL)
    rest = await program.stdout.read()
    await program.wait()
    # The last line may be cut: it was not told.
    lines += [line.split() for line in rest.decode().splitlines()[:-1]]

    store = STORES[name](tmp_path)
    await store.open()
    for what, task in lines:
        found = await store.task(ACCOUNT, task)
        assert found is not None
        if what == "claimed":
            assert found.state in (State.OFFERED, State.FINISHED)
        if what == "finished":
            result = await store.result(ACCOUNT, task)
            assert result is not None
            assert result.body == task.encode()
        if what == "written":
            assert await body_of(store, task) == task.encode() * 60_000
    states = {State(state): await store.tasks(ACCOUNT, 100_000, None, None, state) for state in State}
    assert sum(one.tasks for one in await store.queued()) == len(states[State.QUEUED])
    for line in states[State.FINISHED]:
        assert await store.result(ACCOUNT, line.id) is not None
    await store.close()
