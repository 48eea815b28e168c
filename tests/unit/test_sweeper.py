from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.protocol import Revision
from dispatcher.core import Core
from dispatcher.endings import without_answer
from dispatcher.queue import Limits
from dispatcher.store.base import Account, NewTask
from dispatcher.store.sqlite import SqliteStore

ACCOUNT = "account"
REVISION = Revision("6404b3da46551827c611ffe5", 1, "image", cpu_count=64)
LIMITS = Limits(no_capable_seconds=300, retention_seconds=1000)
DAY = 86_400.0


class Clocks:
    """A wall clock and a monotonic clock that the test moves, together or apart."""

    def __init__(self) -> None:
        self.wall = 1_700_000_000.0
        self.monotonic = 50.0

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
async def core(tmp_path: Path, clocks: Clocks) -> AsyncIterator[Core]:
    store = SqliteStore(tmp_path / "dispatcher.sqlite")
    await store.open()
    await store.add_account(Account(ACCOUNT, "test"))
    yield Core(
        store, LIMITS, "test", wall=lambda: clocks.wall, monotonic=lambda: clocks.monotonic, rng=random.Random(1)
    )
    await store.close()


def new_task(number: int, clocks: Clocks) -> NewTask:
    return NewTask(f"{number:024x}", ACCOUNT, REVISION, int(clocks.wall * 1000), "", [], b"", 0)


async def end(core: Core, task_id: str, clocks: Clocks) -> None:
    ended = without_answer("CANCELLED", "for the test", int(clocks.wall * 1000))
    await core.store.cancel(ACCOUNT, task_id, ended)


async def test_finished_tasks_are_kept_for_their_time(core: Core, clocks: Clocks) -> None:
    """A task goes when it has been finished for longer than it is kept, and not before."""
    for number in range(3):
        await core.queue.submit(new_task(number, clocks))
        await end(core, f"{number:024x}", clocks)
    clocks.pass_by(LIMITS.retention_seconds - 1)
    await core.sweeper.retention()
    assert len(await core.store.tasks(ACCOUNT, 10, None, None, None)) == 3
    clocks.pass_by(2)
    await core.sweeper.retention()
    assert await core.store.tasks(ACCOUNT, 10, None, None, None) == []


@pytest.mark.parametrize("leap", [30 * DAY, -30 * DAY])
async def test_a_wall_clock_that_leaps_removes_nothing_early(core: Core, clocks: Clocks, leap: float) -> None:
    """Results stay their full time by the monotonic clock, whatever the wall clock does."""
    await core.queue.submit(new_task(1, clocks))
    await end(core, f"{1:024x}", clocks)
    clocks.wall += leap
    for _ in range(9):
        clocks.pass_by(LIMITS.retention_seconds / 10)
        await core.sweeper.retention()
        assert len(await core.store.tasks(ACCOUNT, 10, None, None, None)) == 1


async def test_a_task_that_nobody_can_run_ends_and_says_why(core: Core, clocks: Clocks) -> None:
    """After its time in the queue a task that fits no node ends as `NO_CAPABLE_NODE`, and names what is missing."""
    task_id = await core.queue.submit(new_task(1, clocks))
    await core.sweeper.capable()
    clocks.pass_by(LIMITS.no_capable_seconds - 1)
    await core.sweeper.capable()
    task = await core.store.task(ACCOUNT, task_id)
    assert task is not None
    assert task.error is None
    clocks.pass_by(2)
    await core.sweeper.capable()
    task = await core.store.task(ACCOUNT, task_id)
    assert task is not None
    assert (task.error, task.status, task.ending) == ("NO_CAPABLE_NODE", 503, "no_capable_node")
    assert "no node is connected" in task.detail
    assert core.queue.waiting == 0


async def test_a_lease_outlives_a_leap_and_ends_with_silence(core: Core, clocks: Clocks) -> None:
    """Leases go by the monotonic clock: a leap ends none, and a silent node's task goes back to the queue."""
    await core.queue.submit(new_task(1, clocks))
    [claim] = await core.store.claim(REVISION.key, "node", [bytes(16)], 0)
    await core.store.accept(claim.lease, "node")
    await core.attempts.take_up()
    clocks.wall += 30 * DAY
    clocks.monotonic += 29
    await core.sweeper.leases()
    assert len(core.leases) == 1
    clocks.monotonic += 2
    await core.sweeper.leases()
    task = await core.store.task(ACCOUNT, claim.lease.task)
    assert task is not None
    assert (task.state, task.attempt) == ("queued", 2)
