"""How tasks end, and how they go away."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from agent.protocol import Lease, Log, Spans
from dispatcher.store.base import Store
from dispatcher.store.body_keys import result_key
from dispatcher.store.errors import BodyMissing
from dispatcher.store.records import Ended, State, Verdict
from tests.contract.store.cases import (
    ACCOUNT,
    ANSWER,
    CANCELLED,
    LOST,
    NODE,
    OTHER_NODE,
    REVISION,
    accepted,
    body_of,
    claim_one,
    new_task,
    one_at_a_time,
    refuses_everything,
    state_of,
    task_id,
    token,
)


async def test_an_answer_is_recorded_once(store: Store) -> None:
    """The function's answer is the result, byte for byte; when it comes again the first one stands."""
    lease = await accepted(store)
    await store.progress(lease, "running", 50, "half")
    spans = Spans(1.5, 2.5, 3.5, 4.5)
    ended = replace(ANSWER, body=bytes(range(256)), body_size=256, spans=spans, cold=True, log=Log(b"h\xff", 7, b"t"))
    assert await store.finish(lease, NODE, ended) is Verdict.RECORDED
    assert await store.finish(lease, NODE, replace(ANSWER, status=500, log=Log(b"other"))) is Verdict.REPEATED
    found = await store.task(ACCOUNT, lease.task)
    assert found is not None
    assert (found.state, found.phase, found.progress, found.progress_message) == (
        State.FINISHED,
        "running",
        100,
        "half",
    )
    assert (found.status, found.error, found.finished_ms, found.node) == (200, None, 9_000, NODE)
    assert (found.spans, found.cold) == (spans, True)
    result = await store.result(ACCOUNT, lease.task)
    assert result is not None
    assert (result.status, result.headers, result.body, result.body_size) == (
        200,
        ANSWER.headers,
        bytes(range(256)),
        256,
    )
    assert await store.log(ACCOUNT, lease.task) == Log(b"h\xff", 7, b"t")
    assert await store.result("other", lease.task) is None
    assert await store.log("other", lease.task) is None
    await refuses_everything(store, lease)


async def test_outcomes_at_the_same_time_are_recorded_once(store: Store) -> None:
    """One outcome sent many times at once is recorded by one of them."""
    lease = await accepted(store)
    verdicts = await asyncio.gather(*(store.finish(lease, NODE, ANSWER) for _ in range(16)))
    assert verdicts.count(Verdict.RECORDED) == 1
    assert verdicts.count(Verdict.REPEATED) == 15


async def test_an_outcome_of_an_offered_task_counts(store: Store) -> None:
    """The accept may have been lost on the way: the lease is what counts."""
    await store.create_task(new_task())
    assert await store.finish((await claim_one(store)).lease, NODE, ANSWER) is Verdict.RECORDED


async def test_progress_stays_where_there_was_no_answer(store: Store) -> None:
    """An ending that is not the function's answer leaves the percentage, and a log that is empty is a log."""
    lease = await accepted(store)
    await store.progress(lease, "running", 50, "half")
    ended = Ended(9_000, 504, [], b"", 0, error="TIMEOUT", detail="after 10 s")
    assert await store.finish(lease, NODE, ended) is Verdict.RECORDED
    found = await store.task(ACCOUNT, lease.task)
    assert found is not None
    assert (found.progress, found.status, found.error, found.detail) == (50, 504, "TIMEOUT", "after 10 s")
    assert await store.log(ACCOUNT, lease.task) == Log()


@pytest.mark.parametrize("stage", ["queued", "offered", "accepted", "lost"])
async def test_cancel_ends_a_task_at_every_stage(store: Store, stage: str) -> None:
    """The owner ends a task wherever it stands; afterwards it refuses everything, also from the lease it had."""
    await store.create_task(new_task())
    lease = Lease(task_id(1), 1, token(1))
    if stage != "queued":
        await claim_one(store)
    if stage in ("accepted", "lost"):
        await store.accept(lease, NODE)
    if stage == "lost":
        await store.lose(lease, LOST)
    before = await store.task(ACCOUNT, task_id(1))
    assert await store.cancel("other", task_id(1), CANCELLED) is None
    assert await store.cancel(ACCOUNT, task_id(1), CANCELLED) == (before, True)
    found = await store.task(ACCOUNT, task_id(1))
    assert found is not None
    assert (found.state, found.status, found.error, found.finished_ms) == (State.CANCELLED, 499, "CANCELLED", 9_600)
    assert await store.cancel(ACCOUNT, task_id(1), CANCELLED) == (found, False)
    await refuses_everything(store, lease)
    held = stage in ("offered", "accepted")
    assert await store.finish(lease, NODE, ANSWER) is (Verdict.CANCELLED if held else Verdict.STALE)
    result = await store.result(ACCOUNT, task_id(1))
    assert result is not None
    assert (result.status, result.body) == (499, b"")
    assert await store.queued() == []
    assert await store.leased() == []


async def test_a_cancelled_task_keeps_the_log_of_the_lease_that_held_it(store: Store) -> None:
    """Once, and of nobody else: the end stands, and with it stands how long the attempt took."""
    lease = await accepted(store)
    assert not await store.was_cancelled(lease, NODE)
    await store.cancel(ACCOUNT, lease.task, replace(CANCELLED, log=Log(b"so far")))
    late = replace(CANCELLED, detail="late", spans=Spans(running=5.0), cold=True, log=Log(b"until then"))
    for other, node in ((lease, OTHER_NODE), (replace(lease, token=token(9)), NODE), (replace(lease, attempt=2), NODE)):
        assert not await store.was_cancelled(other, node)
        assert await store.finish(other, node, late) is Verdict.STALE
    assert await store.log(ACCOUNT, lease.task) == Log(b"so far")
    assert await store.was_cancelled(lease, NODE)
    assert await store.finish(lease, NODE, late) is Verdict.CANCELLED
    assert await store.finish(lease, NODE, replace(late, spans=Spans(), log=Log(b"again"))) is Verdict.CANCELLED
    assert await store.log(ACCOUNT, lease.task) == Log(b"until then")
    found = await store.task(ACCOUNT, lease.task)
    assert found is not None
    assert (found.state, found.finished_ms, found.detail) == (State.CANCELLED, CANCELLED.finished_ms, CANCELLED.detail)
    assert (found.spans, found.cold) == (Spans(running=5.0), True)


async def test_a_finished_task_is_not_cancelled(store: Store) -> None:
    """A task that has ended is given as it is, and a task that never was is not found."""
    lease = await accepted(store)
    await store.finish(lease, NODE, ANSWER)
    found = await store.task(ACCOUNT, lease.task)
    assert await store.cancel(ACCOUNT, lease.task, CANCELLED) == (found, False)
    assert await store.task(ACCOUNT, lease.task) == found
    assert await store.cancel(ACCOUNT, task_id(99), CANCELLED) is None


async def test_cancel_and_outcome_at_the_same_time(store: Store) -> None:
    """Of a cancel and an outcome that meet, one ends the task, and both are told which."""
    for number in range(1, 20):
        lease = await accepted(store, number)
        finish = asyncio.create_task(store.finish(lease, NODE, ANSWER))
        if number % 2:
            await asyncio.sleep(0)
        cancelled = await store.cancel(ACCOUNT, lease.task, CANCELLED)
        assert cancelled is not None
        assert (await finish is Verdict.RECORDED) != cancelled[1]
        assert await state_of(store, number) is (State.CANCELLED if cancelled[1] else State.FINISHED)


async def test_tasks_that_waited_too_long_end(store: Store) -> None:
    """Queued tasks of the revision from before the time end, the oldest first; others stay."""
    no_node = Ended(9_000, 503, [], b"", 0, error="NO_CAPABLE_NODE")
    second = replace(REVISION, number=2)
    for number in range(1, 7):
        await store.create_task(new_task(number))
    await store.create_task(replace(new_task(7, second), issued_ms=1))
    held = (await claim_one(store)).lease
    assert await store.expire_queued(REVISION.key, 1005, no_node, 2) == [task_id(2), task_id(3)]
    assert await store.expire_queued(REVISION.key, 1005, no_node, 2) == [task_id(4)]
    assert await store.expire_queued(REVISION.key, 1005, no_node, 2) == []
    assert await store.holds(held, NODE)
    assert await state_of(store, 2) is State.FINISHED
    assert await state_of(store, 5) is State.QUEUED
    assert await state_of(store, 7) is State.QUEUED


async def test_ended_tasks_are_removed_with_all_that_was_theirs(store: Store) -> None:
    """The oldest ends go first, in batches, with their bodies; what ended lately or not at all stays."""
    for number in range(1, 6):
        lease = await accepted(store, number)
        key = result_key(lease)
        await store.write_body(key, one_at_a_time(b"body"), 4)
        await store.finish(lease, NODE, replace(ANSWER, finished_ms=number, body=None, body_size=4, body_key=key))
    unused = await accepted(store, 6)
    await store.write_body(result_key(unused), one_at_a_time(b"body"), 4)
    await store.cancel(ACCOUNT, unused.task, replace(CANCELLED, finished_ms=6))
    await store.create_task(new_task(7))
    assert await store.remove_finished(1, 10) == 0
    assert await store.remove_finished(5, 3) == 3
    assert await store.task(ACCOUNT, task_id(3)) is None
    assert await store.remove_finished(5, 3) == 1
    assert await store.remove_finished(5, 3) == 0
    assert [int(line.id, 16) for line in await store.tasks(ACCOUNT, 10, None, None, None)] == [7, 6, 5]
    assert await store.result(ACCOUNT, task_id(4)) is None
    assert await store.log(ACCOUNT, task_id(4)) is None
    with pytest.raises(BodyMissing):
        await body_of(store, f"result:{task_id(4)}:{token(4).hex()}")
    assert await body_of(store, f"result:{task_id(5)}:{token(5).hex()}") == b"body"
    assert await store.remove_finished(10, 10) == 2
    with pytest.raises(BodyMissing):
        await body_of(store, result_key(unused))
    assert await state_of(store, 7) is State.QUEUED
