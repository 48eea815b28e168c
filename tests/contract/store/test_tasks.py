"""Creating, finding, listing and claiming tasks."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest
from msgspec.structs import replace

from agent.protocol import Lease, Revision
from dispatcher.store.base import Store
from dispatcher.store.errors import KeyReused
from dispatcher.store.pieces import CHUNK
from dispatcher.store.records import Claim, State
from tests.contract.store.cases import (
    ACCOUNT,
    ANSWER,
    CANCELLED,
    NODE,
    REVISION,
    claim_one,
    new_task,
    task_id,
    token,
)


async def test_a_new_task_waits(store: Store) -> None:
    """A task is queued as it was created, for its owner alone."""
    assert await store.create_task(new_task()) == task_id(1)
    found = await store.task(ACCOUNT, task_id(1))
    assert found is not None
    assert (found.state, found.phase, found.attempt, found.revision) == (State.QUEUED, None, 1, REVISION)
    assert (found.issued_ms, found.assigned_ms, found.finished_ms, found.node) == (1001, None, None, None)
    assert (found.progress, found.status, found.error, found.spans, found.cold) == (0, 0, None, None, None)
    assert await store.result(ACCOUNT, task_id(1)) is None
    assert await store.log(ACCOUNT, task_id(1)) is None
    assert await store.task("other", task_id(1)) is None
    assert await store.task(ACCOUNT, task_id(2)) is None


@pytest.mark.parametrize("body", [b"", bytes(range(256)), b"x" * CHUNK])
async def test_a_claim_carries_what_was_created(store: Store, body: bytes) -> None:
    """Query, headers in order and body come to the node as the caller sent them."""
    query = "a=%00&b=\x00é\U0001f600"
    headers = [("b", "2"), ("a", ""), ("b", "é")]
    await store.create_task(new_task(query=query, headers=headers, body=body, body_size=len(body)))
    claim = await claim_one(store)
    assert claim == Claim(Lease(task_id(1), 1, token(1)), ACCOUNT, 1001, REVISION, query, headers, body, len(body))


async def test_an_idempotency_key_gives_the_first_task(store: Store) -> None:
    """The same key for the same request gives the first task; for another request it is refused."""
    first = new_task(1, idempotency_key="key", fingerprint=b"f")
    assert await store.create_task(first) == task_id(1)
    assert await store.create_task(replace(first, id=task_id(2))) == task_id(1)
    with pytest.raises(KeyReused):
        await store.create_task(replace(first, id=task_id(3), fingerprint=b"g"))
    assert await store.create_task(replace(first, id=task_id(4), account="other")) == task_id(4)
    assert [line.id for line in await store.tasks(ACCOUNT, 10, None, None, None)] == [task_id(1)]
    await store.finish((await claim_one(store)).lease, NODE, ANSWER)
    assert await store.create_task(replace(first, id=task_id(5))) == task_id(1)


async def test_an_idempotency_key_used_at_the_same_time(store: Store) -> None:
    """Many creates with one key at once make one task, and all are given its id."""
    creates = [store.create_task(new_task(number, idempotency_key="key")) for number in range(1, 33)]
    assert len(set(await asyncio.gather(*creates))) == 1
    assert await store.queued() == [(REVISION, ACCOUNT, 1)]


async def test_an_idempotency_key_goes_with_its_task(store: Store) -> None:
    """When the task is removed, its key is free again."""
    await store.create_task(new_task(1, idempotency_key="key"))
    await store.finish((await claim_one(store)).lease, NODE, ANSWER)
    await store.remove_finished(10_000, 10)
    assert await store.create_task(new_task(2, idempotency_key="key", fingerprint=b"other")) == task_id(2)


async def test_tasks_are_listed_newest_first(store: Store) -> None:
    """Pages, by function and by state or phase, alone and together, hold exactly what they should."""
    other = Revision(f"{0xE:024x}", 1, "image")
    for number in range(1, 13):
        await store.create_task(new_task(number, other if number % 2 else REVISION))
    await store.create_task(new_task(20, account="other"))
    even = [claim.lease for claim in await store.claim(REVISION.key, NODE, [token(n) for n in range(5)], 2_000)]
    for lease in even[:4]:
        await store.accept(lease, NODE)
    await store.progress(even[1], "running", 30, "")
    await store.finish(even[2], NODE, ANSWER)
    await store.cancel(ACCOUNT, even[3].task, CANCELLED)

    async def listed(function: Revision | None = None, state: str | None = None) -> list[int]:
        function_id = function.function if function else None
        lines = await store.tasks(ACCOUNT, 100, None, function_id, state)
        return [int(line.id, 16) for line in lines]

    assert await listed() == list(range(12, 0, -1))
    assert await listed(other) == [11, 9, 7, 5, 3, 1]
    assert await listed(state="queued") == [12, 11, 9, 7, 5, 3, 1]
    assert await listed(REVISION, "queued") == [12]
    assert await listed(state="offered") == [10]
    assert await listed(state="accepted") == [4, 2]
    assert await listed(state="running") == [4]
    assert await listed(REVISION, "running") == [4]
    assert await listed(other, "running") == []
    assert await listed(state="pulling") == []
    assert await listed(state="finished") == [6]
    assert await listed(state="cancelled") == [8]
    assert await listed(state="nonsense") == []

    pages, before = [], None
    while page := await store.tasks(ACCOUNT, 5, before, None, None):
        pages.append([int(line.id, 16) for line in page])
        before = page[-1].id
    assert pages == [[12, 11, 10, 9, 8], [7, 6, 5, 4, 3], [2, 1]]
    (line,) = await store.tasks(ACCOUNT, 1, task_id(7), None, None)
    assert (line.id, line.issued_ms, line.progress, line.status) == (task_id(6), 1006, 100, 200)
    (line,) = await store.tasks(ACCOUNT, 1, None, None, "running")
    assert (line.progress, line.status) == (30, 0)


async def test_the_oldest_task_is_claimed_first(store: Store) -> None:
    """Tasks leave the queue in the order in which they came, and only those of the revision."""
    for number in (3, 1, 2):
        await store.create_task(new_task(number))
    await store.create_task(new_task(4, replace(REVISION, number=2)))
    claims = await store.claim(REVISION.key, NODE, [token(1), token(2)], 2_000)
    assert [claim.lease for claim in claims] == [Lease(task_id(1), 1, token(1)), Lease(task_id(2), 1, token(2))]
    claims = await store.claim(REVISION.key, NODE, [token(3), token(4)], 2_000)
    assert [claim.lease for claim in claims] == [Lease(task_id(3), 1, token(3))]
    assert await store.claim(REVISION.key, NODE, [token(5)], 2_000) == []
    assert await store.claim("no.such", NODE, [token(5)], 2_000) == []
    assert await store.claim(REVISION.key, NODE, [], 2_000) == []
    found = await store.task(ACCOUNT, task_id(1))
    assert found is not None
    assert (found.state, found.node, found.assigned_ms) == (State.OFFERED, NODE, 2_000)


async def test_claims_at_the_same_time_never_share_a_task(store: Store) -> None:
    """Many nodes claim at once, while tasks still come: each task goes to one of them, and none is left."""
    tokens = count(1)
    last = asyncio.gather(*(store.create_task(new_task(number)) for number in range(1, 301)))

    async def claim_all(node: str) -> list[str]:
        mine: list[str] = []
        while not (last.done() and (await store.queued()) == []):
            claims = await store.claim(REVISION.key, node, [token(next(tokens)) for _ in range(3)], 2_000)
            mine += [claim.lease.task for claim in claims]
        return mine

    nodes = [f"node-{number}" for number in range(16)]
    claimed = await asyncio.gather(*map(claim_all, nodes))
    assert sorted(task for mine in claimed for task in mine) == [task_id(number) for number in range(1, 301)]
    held = {(leased.node, leased.lease.task) for leased in await store.leased()}
    assert held == {(node, task) for node, mine in zip(nodes, claimed, strict=True) for task in mine}


async def test_what_waits_and_what_is_held(store: Store) -> None:
    """A dispatcher that starts finds what waits, by revision, and every lease that a node has."""
    second = replace(REVISION, number=2)
    for number in range(1, 5):
        await store.create_task(new_task(number))
    await store.create_task(new_task(9, second))
    offered, held, done = (
        claim.lease for claim in await store.claim(REVISION.key, NODE, [token(n) for n in (1, 2, 3)], 1)
    )
    await store.accept(held, NODE)
    await store.finish(done, NODE, ANSWER)
    assert sorted(await store.queued(), key=lambda item: item[0].number) == [
        (REVISION, ACCOUNT, 1),
        (second, ACCOUNT, 1),
    ]
    found = {leased.lease: (leased.node, leased.revision, leased.state) for leased in await store.leased()}
    assert found == {offered: (NODE, REVISION, State.OFFERED), held: (NODE, REVISION, State.ACCEPTED)}
