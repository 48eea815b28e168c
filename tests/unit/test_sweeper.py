from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.protocol import LEASE_SECONDS, Lease, Revision
from dispatcher import sweeper
from dispatcher.core import Core
from dispatcher.endings import without_answer
from dispatcher.queue import Limits
from dispatcher.store.access import Account, AuditLine
from dispatcher.store.errors import StoreUnavailable
from dispatcher.store.records import NewTask
from dispatcher.store.sqlite import SqliteStore

ACCOUNT = "account"
REVISION = Revision("6404b3da46551827c611ffe5", 1, "image", cpu_count=64)
LIMITS = Limits(no_capable_seconds=300, retention_seconds=1000, audit_seconds=5000)
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


async def test_the_record_of_changes_is_kept_for_its_time(core: Core, clocks: Clocks) -> None:
    """A line goes when it is older than lines are kept, and not before."""
    line = AuditLine("0" * 24, int(clocks.wall * 1000), ACCOUNT, ACCOUNT, None, "test", "account.create", "other")
    await core.store.add_account(Account("other", "other"), line)
    for seconds, kept in ((LIMITS.audit_seconds - 1, 1), (2, 0)):
        clocks.pass_by(seconds)
        await core.sweeper.retention()
        assert len(await core.store.audit(None, 10, None)) == kept


async def test_removing_rests_longer_than_it_works(clocks: Clocks, monkeypatch: pytest.MonkeyPatch) -> None:
    """A month of history that is due at once leaves the store to others most of the time, and ends with the sweep."""
    batches = 0

    async def remove() -> int:
        nonlocal batches
        batches += 1
        clocks.pass_by(0.25)
        return sweeper.REMOVE_BATCH

    async def rest(seconds: float) -> None:
        clocks.pass_by(seconds)

    monkeypatch.setattr("dispatcher.sweeper.asyncio.sleep", rest)
    assert await sweeper.removed_gently(remove, lambda: clocks.monotonic) == batches * sweeper.REMOVE_BATCH
    assert batches == sweeper.REMOVE_SECONDS  # a second each: a quarter of it work, the others rest


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
    assert core.queue.backlog.total == 0


async def hold(core: Core, clocks: Clocks) -> Lease:
    """Put a task into the hands of a node that is not connected."""
    await core.queue.submit(new_task(1, clocks))
    [claim] = await core.store.claim(REVISION.key, "node", [bytes(16)], 0)
    await core.store.accept(claim.lease, "node")
    await core.attempts.take_up()
    return claim.lease


async def sweep_for(core: Core, clocks: Clocks, seconds: float) -> None:
    for _ in range(int(seconds * 2)):
        clocks.monotonic += 0.5
        await core.sweeper.leases()


async def test_a_lease_outlives_a_leap_and_ends_with_silence(core: Core, clocks: Clocks) -> None:
    """Leases go by the monotonic clock: a leap ends none, and a silent node's task goes back to the queue."""
    lease = await hold(core, clocks)
    clocks.wall += 30 * DAY
    await sweep_for(core, clocks, LEASE_SECONDS - 1)
    assert len(core.leases) == 1
    await sweep_for(core, clocks, 2)
    task = await core.store.task(ACCOUNT, lease.task)
    assert task is not None
    assert (task.state, task.attempt) == ("queued", 2)


async def test_a_dispatcher_that_stood_still_blames_no_node(core: Core, clocks: Clocks) -> None:
    """After a pause of the whole process every lease has the time left that it had before."""
    await hold(core, clocks)
    await sweep_for(core, clocks, LEASE_SECONDS - 5)
    clocks.pass_by(600)
    await core.sweeper.leases()
    assert len(core.leases) == 1
    await sweep_for(core, clocks, 6)
    assert len(core.leases) == 0


async def test_a_store_that_fails_loses_no_lease(core: Core, clocks: Clocks) -> None:
    """A lease that ended while the store did not answer is ended again when it does."""
    lease = await hold(core, clocks)
    await core.store.close()
    with pytest.raises(StoreUnavailable):
        await sweep_for(core, clocks, LEASE_SECONDS + 1)
    await core.store.open()
    await sweep_for(core, clocks, 10)
    task = await core.store.task(ACCOUNT, lease.task)
    assert task is not None
    assert (task.state, task.attempt) == ("queued", 2)
