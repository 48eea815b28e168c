"""Tasks that were given to a node before they were written: the store holds what single steps would have left."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from agent.protocol import Lease, Log, Spans
from dispatcher.store.base import Store
from dispatcher.store.records import Ended, State, Task, Verdict
from tests.contract.store.cases import (
    ACCOUNT,
    ANSWER,
    NODE,
    OTHER_NODE,
    REVISION,
    new_task,
    refuses_everything,
    task_id,
    token,
)

LEASE = Lease(task_id(2), 1, token(2))
ENDS = [
    replace(ANSWER, spans=Spans(1, 2, 3, 4), cold=True, phase="running", log=Log(b"head", 1, b"tail")),
    Ended(9_500, 504, [], b"", 0, error="TIMEOUT", detail="words", ending="timeout", phase="running", percent=30),
]


async def by_steps(store: Store, accepted: bool, ended: Ended | None) -> None:
    """Make task 1 as tasks are made one step after the other."""
    await store.create_task(new_task(1))
    (claim,) = await store.claim(REVISION.key, NODE, [token(1)], 2_000)
    if accepted:
        assert await store.accept(claim.lease, NODE)
    if ended is not None:
        assert await store.finish(claim.lease, NODE, ended) is Verdict.RECORDED


async def shown(store: Store, number: int) -> Task:
    found = await store.task(ACCOUNT, task_id(number))
    assert found is not None
    return replace(found, id="", issued_ms=0)


@pytest.mark.parametrize("accepted", [False, True])
@pytest.mark.parametrize("ended", [None, *ENDS])
async def test_equals_what_single_steps_leave(store: Store, accepted: bool, ended: Ended | None) -> None:
    """Task, result, log, lists and counts are the same as after create, claim, accept and finish."""
    await by_steps(store, accepted, ended)
    await store.create_given(new_task(2), LEASE, NODE, 2_000, accepted=accepted, ended=ended)
    assert await shown(store, 1) == await shown(store, 2)
    assert await store.result(ACCOUNT, task_id(1)) == await store.result(ACCOUNT, task_id(2))
    assert await store.log(ACCOUNT, task_id(1)) == await store.log(ACCOUNT, task_id(2))
    state = (await shown(store, 2)).state
    listed = await store.tasks(ACCOUNT, 10, None, REVISION.function, state)
    assert [line.id for line in listed] == [task_id(2), task_id(1)]
    assert await store.queued() == []
    assert {leased.lease.task for leased in await store.leased()} == (
        {task_id(1), task_id(2)} if ended is None else set()
    )


async def test_goes_on_as_any_task(store: Store) -> None:
    """Its lease is the present one: accepted, lost, claimed by another node, and ended once."""
    await store.create_given(new_task(2), LEASE, NODE, 2_000)
    assert await store.holds(LEASE, NODE)
    assert not await store.holds(LEASE, OTHER_NODE)
    assert await store.input_of(LEASE, NODE) == (None, b"in", 2)
    assert await store.accept(LEASE, NODE)
    assert (await store.lose(LEASE, ENDS[1])).value == "requeued"
    (claim,) = await store.claim(REVISION.key, OTHER_NODE, [token(9)], 3_000)
    assert (claim.lease.attempt, claim.body, claim.headers) == (2, b"in", new_task(2).headers)
    await refuses_everything(store, LEASE)
    assert await store.finish(claim.lease, OTHER_NODE, ANSWER) is Verdict.RECORDED


async def test_an_end_that_comes_again_is_known(store: Store) -> None:
    """Its outcome may be repeated by its node, and by nobody else."""
    await store.create_given(new_task(2), LEASE, NODE, 2_000, accepted=True, ended=ANSWER)
    assert await store.finish(LEASE, NODE, ANSWER) is Verdict.REPEATED
    assert await store.finish(LEASE, OTHER_NODE, ANSWER) is Verdict.STALE
    assert (await shown(store, 2)).state is State.FINISHED
