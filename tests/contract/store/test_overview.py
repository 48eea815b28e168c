"""What overviews ask for: chosen tasks, counts, recent ends."""

from __future__ import annotations

from msgspec.structs import replace

from agent.protocol import Revision, Spans
from dispatcher.store.base import Store
from dispatcher.store.records import NodeCounts, State, TaskCounts
from tests.contract.store.cases import (
    ACCOUNT,
    ANSWER,
    CANCELLED,
    LOST,
    NODE,
    OTHER_NODE,
    REVISION,
    accepted,
    claim_one,
    new_task,
    task_id,
)

OTHER = Revision(f"{0xE:024x}", 1, "image")


async def test_chosen_tasks_are_shown_as_they_stand(store: Store) -> None:
    """The account's own among them, newest first; one that waits shows no trace of an attempt."""
    lease = await accepted(store, 1)
    await store.progress(lease, "running", 42, "half way")
    await store.create_task(new_task(2))
    await store.create_task(new_task(3, account="other"))
    waits, runs = await store.task_lines(ACCOUNT, [task_id(number) for number in (1, 2, 3, 4)])
    assert (runs.id, runs.function, runs.state, runs.phase) == (
        task_id(1),
        REVISION.function,
        State.ACCEPTED,
        "running",
    )
    assert (runs.progress, runs.progress_message, runs.node, runs.assigned_ms) == (42, "half way", NODE, 2_000)
    assert (runs.finished_ms, runs.error, runs.status) == (None, None, 0)
    assert (waits.id, waits.state, waits.phase, waits.node, waits.assigned_ms) == (
        task_id(2),
        State.QUEUED,
        None,
        None,
        None,
    )
    assert await store.task_lines(ACCOUNT, []) == []
    await store.lose(lease, LOST)
    (again,) = await store.task_lines(ACCOUNT, [task_id(1)])
    assert (again.state, again.phase, again.node, again.assigned_ms) == (State.QUEUED, None, None, None)


async def test_a_node_is_asked_what_it_holds(store: Store) -> None:
    """Tasks are on a node from the offer to their end, and only the account's own are told."""
    first = await accepted(store, 1)
    await store.create_task(new_task(2))
    await claim_one(store, 2)
    await store.create_task(new_task(3, OTHER))
    await claim_one(store, 3, OTHER_NODE, OTHER)
    await store.create_task(new_task(4, account="other"))
    await claim_one(store, 4)
    assert [line.id for line in await store.tasks_on_node(ACCOUNT, NODE, 10)] == [task_id(2), task_id(1)]
    assert [line.id for line in await store.tasks_on_node(ACCOUNT, NODE, 1)] == [task_id(2)]
    await store.finish(first, NODE, ANSWER)
    assert [line.id for line in await store.tasks_on_node(ACCOUNT, NODE, 10)] == [task_id(2)]


async def test_failed_and_active_tasks_are_found(store: Store) -> None:
    """Failed is finished with 400 or more, by whoever's fault; active is not ended."""
    for number, status in ((1, 200), (2, 404), (3, 302)):
        await store.finish(await accepted(store, number), NODE, replace(ANSWER, status=status))
    await store.finish(await accepted(store, 4), NODE, LOST)
    await store.create_task(new_task(5, OTHER))
    await store.finish((await claim_one(store, 5, revision=OTHER)).lease, NODE, replace(ANSWER, status=500))
    await store.create_task(new_task(6))
    await store.cancel(ACCOUNT, task_id(6), CANCELLED)
    await accepted(store, 7)
    await store.create_task(new_task(8))

    async def listed(state: str, function: Revision | None = None, before: str | None = None) -> list[int]:
        function_id = function.function if function else None
        return [int(line.id, 16) for line in await store.tasks(ACCOUNT, 10, before, function_id, state)]

    assert await listed("failed") == [5, 4, 2]
    assert await listed("failed", before=task_id(4)) == [2]
    assert await listed("failed", OTHER) == [5]
    assert await listed("active") == [8, 7]
    assert await listed("active", OTHER) == []


async def test_tasks_are_counted_up_to_a_bound(store: Store) -> None:
    """By state, of all functions or of one, of all times or of late; beyond the bound nothing is counted."""
    assert await store.task_counts(ACCOUNT, 10) == TaskCounts(0, 0, 0, 0, 0, 0)
    await store.finish(await accepted(store, 1), NODE, ANSWER)
    await store.finish(await accepted(store, 2), NODE, LOST)
    await accepted(store, 3)
    for number in (4, 5, 6):
        await store.create_task(new_task(number, OTHER))
    await claim_one(store, 4, revision=OTHER)
    await store.cancel(ACCOUNT, task_id(5), CANCELLED)
    await store.create_task(new_task(7, Revision(f"{0xD:024x}", 1, "image"), account="other"))
    assert await store.task_counts(ACCOUNT, 10) == TaskCounts(1, 1, 1, 2, 1, 1)
    assert await store.task_counts(ACCOUNT, 1) == TaskCounts(1, 1, 1, 1, 1, 1)
    assert await store.task_counts(ACCOUNT, 10, REVISION.function) == TaskCounts(0, 0, 1, 2, 0, 1)
    assert await store.task_counts(ACCOUNT, 10, OTHER.function) == TaskCounts(1, 1, 0, 0, 1, 0)
    assert await store.task_counts(ACCOUNT, 10, above=task_id(1)) == TaskCounts(1, 1, 1, 1, 1, 1)
    assert await store.task_counts(ACCOUNT, 10, above=task_id(6)) == TaskCounts(0, 0, 0, 0, 0, 0)


async def test_recent_ends_say_where_time_went(store: Store) -> None:
    """The newest finished tasks of a function, with spans, and cold or not; cancelled ones are not among them."""
    spans = Spans(1, 2, 3, 4)
    for number in (1, 2, 3):
        ended = replace(ANSWER, spans=spans, cold=number == 2, finished_ms=9_000 + number)
        await store.finish(await accepted(store, number), NODE, ended)
    await store.create_task(new_task(4))
    await store.cancel(ACCOUNT, task_id(4), CANCELLED)
    third, second = await store.recent_ends(ACCOUNT, REVISION.function, 2)
    assert (third.issued_ms, third.assigned_ms, third.finished_ms, third.status) == (1003, 2_000, 9_003, 200)
    assert (third.error, third.spans, third.cold, second.cold) == (None, spans, False, True)
    assert len(await store.recent_ends(ACCOUNT, REVISION.function, 10)) == 3
    assert await store.recent_ends("other", REVISION.function, 10) == []
    assert await store.recent_ends(ACCOUNT, OTHER.function, 10) == []


async def test_nodes_are_counted(store: Store) -> None:
    """All of the account, and those that were removed."""
    assert await store.node_counts(ACCOUNT, 10) == NodeCounts(0, 0)
    for node in (NODE, OTHER_NODE):
        await store.join_node(node, ACCOUNT, "", b"hash", 0)
    await store.set_node_disabled(ACCOUNT, NODE, disabled=True)
    assert await store.node_counts(ACCOUNT, 10) == NodeCounts(2, 1)
    assert (await store.node_counts(ACCOUNT, 1)).all == 1
    assert await store.node_counts("other", 10) == NodeCounts(0, 0)


async def test_the_oldest_that_waits(store: Store) -> None:
    """Of the revisions asked for, and of tasks that wait: neither a held one nor an ended one counts."""
    assert await store.oldest_queued([REVISION.key]) is None
    for number in (1, 2, 3):
        await store.create_task(new_task(number))
    await store.create_task(new_task(4, OTHER))
    assert await store.oldest_queued([REVISION.key, OTHER.key]) == 1001
    assert await store.oldest_queued([OTHER.key]) == 1004
    await claim_one(store)
    assert await store.oldest_queued([REVISION.key]) == 1002
    assert await store.oldest_queued([]) is None
