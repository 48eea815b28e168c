"""Containers that stand still because the machine's owner wants it for himself, on the real engine."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from agent.containers.engine import Engine, EngineError, Inspection
from agent.containers.host import ContainerHost
from agent.containers.pool import FREEZE_TRIES
from agent.invocation import GaveBack, Ran
from agent.protocol import Revision
from tests.contract.containers.calls import Caller, Heard, revision

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("images")]


async def container_of(host: ContainerHost, tested: Revision) -> Inspection:
    (found,) = await host.engine.containers(f"fernd.function={tested.function}")
    return await host.engine.inspect(found.name)


async def still_there(task: asyncio.Task[Any], seconds: float) -> bool:
    """Say whether a task goes on for so long."""
    done, _ = await asyncio.wait({task}, timeout=seconds)
    return not done


async def test_a_call_stands_still_and_goes_on(host: ContainerHost, call: Caller) -> None:
    """Its container is paused, its timeout does not count meanwhile, and after it its answer is the right one."""
    tested, heard = revision(timeout=1), Heard()
    work = asyncio.create_task(call.prepare(tested, "do=sleep&value=0.3", heard=heard).run())
    await heard.until(lambda heard: bool(heard.lines))
    await host.freeze()
    try:
        assert (await container_of(host, tested)).paused
        # One that comes meanwhile waits, and so does one of another function.
        others = [asyncio.create_task(call(tested)), asyncio.create_task(call(revision()))]
        assert await still_there(work, 1.5)
        await host.freeze()
    finally:
        await host.thaw()
    ran = await work
    assert isinstance(ran, Ran)
    assert (ran.outcome.ending, ran.outcome.status, ran.outcome.body) == ("answered", 200, b"slept")
    assert ran.outcome.spans.running < 1000
    assert [each.outcome.status for each in await asyncio.gather(*others)] == [200, 200]


async def test_a_timeout_goes_on_where_it_stood(
    host: ContainerHost, call: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function that is too slow is too slow after a pause, too; the kernel may need several tries for that."""
    tested, heard = revision(timeout=1), Heard()
    work = asyncio.create_task(call.prepare(tested, "do=sleep&value=30", heard=heard).run())
    await heard.until(lambda heard: bool(heard.lines))
    pause, tries = Engine.pause, 0

    async def late(self: Engine, name: str) -> None:
        nonlocal tries
        tries += 1
        if tries < FREEZE_TRIES:
            raise EngineError(500, "unable to freeze")
        await pause(self, name)

    monkeypatch.setattr(Engine, "pause", late)
    await host.freeze()
    assert (await container_of(host, tested)).paused
    await host.thaw()
    ran = await work
    assert isinstance(ran, Ran)
    assert ran.outcome.ending == "timeout"


async def test_a_job_stands_still_and_goes_on(host: ContainerHost, call: Caller) -> None:
    """Nothing of its input and output is lost."""
    tested, heard = revision(mode="job", timeout=2), Heard()
    work = asyncio.create_task(call.prepare(tested, "do=sleep&value=0.5", b"in", heard=heard).run())
    await heard.until(lambda heard: "running" in heard.phases)
    await host.freeze()
    try:
        assert (await container_of(host, tested)).paused
        assert await still_there(work, 2.2)
    finally:
        await host.thaw()
    ran = await work
    assert isinstance(ran, Ran)
    assert (ran.outcome.ending, ran.outcome.status, ran.outcome.exit_code) == ("answered", 200, 0)


async def test_what_stands_still_can_be_given_back(host: ContainerHost, call: Caller) -> None:
    """A frozen function hears no signal: its container is removed at once, and the attempt is given back."""
    tested, heard = revision(timeout=30, grace=30), Heard()
    invocation = call.prepare(tested, "do=sleep&value=30", heard=heard)
    work = asyncio.create_task(invocation.run())
    await heard.until(lambda heard: bool(heard.lines))
    await host.freeze()
    try:
        invocation.stop("drained")
        async with asyncio.timeout(10):
            assert await work == GaveBack("drained", started=True)
        assert await call.containers_of(tested) == []
    finally:
        await host.thaw()


async def test_idle_containers_are_frozen_used_again_and_dropped(host: ContainerHost, call: Caller) -> None:
    """A warm container stands still, too, works again after a pause, and goes where the owner wants the memory."""
    tested = revision()
    pid = json.loads((await call(tested)).outcome.body or b"")["pid"]
    await host.freeze()
    assert (await container_of(host, tested)).paused
    await host.thaw()
    assert json.loads((await call(tested)).outcome.body or b"")["pid"] == pid
    host.rest(drop_idle=True)
    assert await call.containers_of(tested) == []
    await host.thaw()


async def test_the_cpu_time_of_functions_is_known(host: ContainerHost, call: Caller, tmp_path: Path) -> None:
    """As the kernel counts it, so that it is not taken for somebody else's."""
    tested = revision()
    await call(tested)
    before = host.cpu_seconds()
    assert before is not None
    (name,) = await call.containers_of(tested)
    assert before[name] > 0
