"""Whose write counts: leases that are good, lost, released or wrong."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from agent.protocol import Lease
from dispatcher.store.base import Store
from dispatcher.store.records import Lost, State, Verdict
from tests.contract.store.cases import (
    ACCOUNT,
    ANSWER,
    LOST,
    NODE,
    OTHER_NODE,
    REVISION,
    accepted,
    claim_one,
    new_task,
    refuses_everything,
    state_of,
    task_id,
    token,
)


async def test_accept_needs_the_lease_and_the_node(store: Store) -> None:
    """Only the node that was offered the task accepts it, with the token that it was given; twice is no harm."""
    await store.create_task(new_task())
    lease = (await claim_one(store)).lease
    assert not await store.accept(lease, OTHER_NODE)
    assert not await store.accept(replace(lease, token=token(9)), NODE)
    assert not await store.accept(replace(lease, attempt=2), NODE)
    assert not await store.accept(replace(lease, task=task_id(2)), NODE)
    assert await state_of(store) is State.OFFERED
    assert await store.accept(lease, NODE)
    assert await store.accept(lease, NODE)
    assert await state_of(store) is State.ACCEPTED


async def test_a_released_task_goes_back_as_it_was(store: Store) -> None:
    """An offer that was not begun goes back with the same attempt; its lease is good for nothing any more."""
    lease = await accepted(store)
    await store.progress(lease, "pulling", None, "")
    assert await store.release(lease)
    found = await store.task(ACCOUNT, lease.task)
    assert found is not None
    assert (found.state, found.attempt, found.node, found.assigned_ms, found.phase) == (
        State.QUEUED,
        1,
        None,
        None,
        None,
    )
    await refuses_everything(store, lease)
    again = await claim_one(store, 2, OTHER_NODE)
    assert again.lease == Lease(lease.task, 1, token(2))
    await refuses_everything(store, lease)
    assert await store.accept(again.lease, OTHER_NODE)


@pytest.mark.parametrize(
    "wrong",
    [{"token": token(99)}, {"attempt": 2}, {"task": task_id(99)}],
    ids=["token", "attempt", "task"],
)
async def test_a_wrong_lease_changes_nothing(store: Store, wrong: dict[str, object]) -> None:
    """A lease that differs from the present one in any part is refused by every write."""
    lease = await accepted(store)
    await refuses_everything(store, replace(lease, **wrong))
    assert await store.holds(lease, NODE)


async def test_another_nodes_lease_ends_nothing(store: Store) -> None:
    """A node that learned another's lease can read no input with it and record no outcome."""
    lease = await accepted(store)
    assert not await store.holds(lease, OTHER_NODE)
    assert await store.input_of(lease, OTHER_NODE) is None
    assert await store.finish(lease, OTHER_NODE, ANSWER) is Verdict.STALE
    assert await store.holds(lease, NODE)
    assert await store.finish(lease, NODE, ANSWER) is Verdict.RECORDED
    assert await store.finish(lease, OTHER_NODE, ANSWER) is Verdict.STALE


async def test_a_lost_attempt_counts(store: Store) -> None:
    """Attempts are lost until they are used up; then the task ends with the given ending, and the last lease too."""
    await store.create_task(new_task(1, replace(REVISION, retries=2)))
    leases = []
    for attempt in (1, 2, 3):
        lease = (await claim_one(store, attempt)).lease
        assert lease.attempt == attempt
        assert await store.accept(lease, NODE)
        leases.append(lease)
        assert await store.lose(lease, LOST) is (Lost.REQUEUED if attempt < 3 else Lost.EXHAUSTED)
        assert await store.lose(lease, LOST) is Lost.STALE
    found = await store.task(ACCOUNT, task_id(1))
    assert found is not None
    assert (found.state, found.attempt, found.error, found.status) == (State.FINISHED, 3, "NODE_LOST", 503)
    assert (found.finished_ms, found.detail, found.node) == (9_500, "no attempts are left", NODE)
    for lease in leases:
        await refuses_everything(store, lease)
        assert await store.finish(lease, NODE, ANSWER) is Verdict.STALE


async def test_without_retries_the_first_loss_ends_it(store: Store) -> None:
    """A function that must never run twice does not."""
    revision = replace(REVISION, number=2, retries=0)
    await store.create_task(new_task(1, revision))
    lease = (await claim_one(store, revision=revision)).lease
    await store.accept(lease, NODE)
    assert await store.lose(lease, LOST) is Lost.EXHAUSTED
    assert await store.queued() == []


async def test_a_lost_lease_is_good_until_the_next_claim(store: Store) -> None:
    """The outcome of a lost attempt is recorded, as that attempt's, while nobody has claimed the task since."""
    lease = await accepted(store)
    await store.progress(lease, "uploading", 80, "nearly")
    assert await store.lose(lease, LOST) is Lost.REQUEUED
    found = await store.task(ACCOUNT, lease.task)
    assert found is not None
    assert (found.state, found.attempt, found.node, found.phase, found.progress) == (State.QUEUED, 2, None, None, 80)
    assert await store.holds(lease, NODE)
    assert await store.input_of(lease, NODE) == (None, b"in", 2)
    assert not await store.holds(replace(lease, attempt=2), NODE)
    assert not await store.accept(lease, NODE)
    assert not await store.progress(lease, "running", 90, "")
    assert not await store.release(lease)
    assert await store.finish(lease, NODE, ANSWER) is Verdict.RECORDED
    assert await store.finish(lease, NODE, ANSWER) is Verdict.REPEATED
    found = await store.task(ACCOUNT, lease.task)
    assert found is not None
    assert (found.state, found.attempt, found.node, found.phase) == (State.FINISHED, 1, NODE, "uploading")
    assert await store.queued() == []
    assert await store.claim(REVISION.key, OTHER_NODE, [token(5)], 3_000) == []


async def test_a_lost_lease_is_stale_after_the_next_claim(store: Store) -> None:
    """Once another node has the task, the lost attempt's outcome is refused: that node's is the one that counts."""
    lease = await accepted(store)
    await store.lose(lease, LOST)
    again = (await claim_one(store, 2, OTHER_NODE)).lease
    assert again == Lease(lease.task, 2, token(2))
    await refuses_everything(store, lease)
    assert await store.finish(lease, NODE, ANSWER) is Verdict.STALE
    assert await store.finish(again, OTHER_NODE, ANSWER) is Verdict.RECORDED
    assert await store.finish(lease, NODE, ANSWER) is Verdict.STALE


async def test_a_lost_lease_is_stale_once_the_next_was_released(store: Store) -> None:
    """A claim that came to nothing has ended the lost lease all the same."""
    lease = await accepted(store)
    await store.lose(lease, LOST)
    again = (await claim_one(store, 2, OTHER_NODE)).lease
    assert await store.release(again)
    await refuses_everything(store, lease)
    await refuses_everything(store, again, OTHER_NODE)
    assert await state_of(store) is State.QUEUED


async def test_progress_never_falls(store: Store) -> None:
    """The percentage keeps its highest value, over attempts too; phase and words are the newest."""
    lease = await accepted(store)

    async def seen() -> tuple[str | None, int, str]:
        found = await store.task(ACCOUNT, lease.task)
        assert found is not None
        return found.phase, found.progress, found.progress_message

    assert await store.progress(lease, "pulling", None, "")
    assert await seen() == ("pulling", 0, "")
    assert await store.progress(lease, "running", 42, "some words")
    assert await store.progress(lease, "running", None, "")
    assert await seen() == ("running", 42, "some words")
    assert await store.progress(lease, "running", 30, "back")
    assert await seen() == ("running", 42, "back")
    assert await store.progress(lease, "uploading", 43, "")
    assert await seen() == ("uploading", 43, "")
    await store.lose(lease, LOST)
    again = (await claim_one(store, 2)).lease
    await store.accept(again, NODE)
    assert await seen() == (None, 43, "")
    assert await store.progress(again, "running", 10, "")
    assert await seen() == ("running", 43, "")
