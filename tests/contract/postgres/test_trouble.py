"""The database breaks off, restarts, can only be read: no answer is lost, and nothing happens twice."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Literal

import pytest

from dispatcher.store.errors import StoreUnavailable
from dispatcher.store.postgres import PostgresStore, connections
from dispatcher.store.postgres.address import parse
from dispatcher.store.records import Ended, State, Verdict
from tests import postgres
from tests.contract.postgres.cutter import Cutter
from tests.contract.store.cases import (
    ACCOUNT,
    ANSWER,
    CANCELLED,
    NODE,
    REVISION,
    accepted,
    claim_one,
    new_task,
    task_id,
)

Cut = Literal["asked", "confirmed"]
CUTS: list[Cut] = ["asked", "confirmed"]


@pytest.fixture
async def cutter() -> AsyncIterator[Cutter]:
    async with Cutter(postgres.shared()).running() as running:
        yield running


@pytest.fixture
async def store(cutter: Cutter, request: pytest.FixtureRequest) -> AsyncIterator[PostgresStore]:
    subject = PostgresStore(parse(cutter.url(postgres.name_of(request.node.nodeid))), pool=5)
    await subject.open()
    yield subject
    await subject.close()


@pytest.fixture(scope="module")
def cluster() -> Iterator[postgres.Cluster]:
    """A server that tests may stop."""
    with postgres.running("fsync=off") as running:
        yield running


@pytest.mark.parametrize("cut", CUTS)
async def test_a_create_whose_commit_breaks_off_happens_once(store: PostgresStore, cutter: Cutter, cut: Cut) -> None:
    """Whether the commit was made or not: the create is answered when it is, and there is one task."""
    cutter.cut = cut
    assert await store.create_task(new_task(1, idempotency_key="key", fingerprint=b"f")) == task_id(1)
    assert cutter.cuts == 1
    assert await store.queued() == [(REVISION, ACCOUNT, 1)]
    assert await store.create_task(new_task(2, idempotency_key="key", fingerprint=b"f")) == task_id(1)


@pytest.mark.parametrize("cut", CUTS)
async def test_an_outcome_whose_commit_breaks_off_is_recorded_once(
    store: PostgresStore, cutter: Cutter, cut: Cut
) -> None:
    """The node is told that its outcome was recorded, as is everybody who waits; a second one changes nothing."""
    lease = await accepted(store)
    cutter.cut = cut
    assert await store.finish(lease, NODE, ANSWER) is Verdict.RECORDED
    assert cutter.cuts == 1
    assert await store.finish(lease, NODE, Ended(1, 500, [], b"other", 5)) is Verdict.REPEATED
    result = await store.result(ACCOUNT, lease.task)
    assert result is not None
    assert result.body == ANSWER.body


@pytest.mark.parametrize("cut", CUTS)
async def test_what_cannot_be_repeated_is_not_called_done(store: PostgresStore, cutter: Cutter, cut: Cut) -> None:
    """A claim and a cancel whose commit breaks off are unknown; the store shows what became of them."""
    await store.create_task(new_task(1))
    cutter.cut = cut
    with pytest.raises(StoreUnavailable):
        await claim_one(store)
    assert len(await store.leased()) == (0 if cut == "asked" else 1)
    cutter.cut = cut
    with pytest.raises(StoreUnavailable):
        await store.cancel(ACCOUNT, task_id(1), CANCELLED)
    found = await store.task(ACCOUNT, task_id(1))
    assert found is not None
    assert (found.state is State.CANCELLED) is (cut == "confirmed")
    assert cutter.cuts == 2


async def test_a_restart_under_load_loses_nothing(cluster: postgres.Cluster) -> None:
    """The server crashes and comes back, twice, amid writes: callers wait, and what they were answered is so."""
    store = PostgresStore(parse(cluster.schema("restart")), pool=5)
    await store.open()
    created: set[str] = set()
    finished: set[str] = set()
    numbers = itertools.count(1)
    going_on = True

    async def work() -> None:
        while going_on:
            number = next(numbers)
            try:
                created.add(await store.create_task(new_task(number)))
                for claim in await store.claim(REVISION.key, NODE, [number.to_bytes(16)], 1):
                    if await store.finish(claim.lease, NODE, ANSWER) is Verdict.RECORDED:
                        assert claim.lease.task not in finished
                        finished.add(claim.lease.task)
            except StoreUnavailable:
                continue  # nothing is known of this one

    workers = [asyncio.create_task(work()) for _ in range(8)]
    for _ in range(2):
        before = len(finished)
        while len(finished) < before + 200:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(cluster.stop, "immediate")
        await asyncio.to_thread(cluster.start)
    before = len(finished)
    while len(finished) < before + 200:
        await asyncio.sleep(0.01)
    going_on = False
    await asyncio.gather(*workers)
    lines = {line.id: line for line in await store.tasks(ACCOUNT, 100_000, None, None, None)}
    assert created <= lines.keys()
    assert all(lines[task].state is State.FINISHED for task in finished)
    results = [await store.result(ACCOUNT, task) for task in list(finished)[::20]]
    assert all(result is not None and result.body == ANSWER.body for result in results)
    await store.close()


async def test_callers_are_told_when_it_stays_away(cluster: postgres.Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers wait for a while and no longer; nothing of the address but its hosts is in what they are told."""
    monkeypatch.setattr(connections, "PATIENCE_SECONDS", 0.3)
    store = PostgresStore(parse(cluster.schema("away").replace("fernd@", "fernd:secret@")), pool=4)
    await store.open()
    await store.ping()
    await asyncio.to_thread(cluster.stop)
    try:
        with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{cluster.port}") as caught:
            await store.create_task(new_task())
        assert "secret" not in str(caught.value)
        with pytest.raises(StoreUnavailable):
            await store.ping()
        with pytest.raises(StoreUnavailable):
            await PostgresStore(parse(cluster.url()), pool=4).open()
    finally:
        await asyncio.to_thread(cluster.start)
    monkeypatch.undo()
    assert await store.create_task(new_task()) == task_id(1)
    await store.ping()
    await store.close()


async def test_the_first_host_that_can_be_written_is_used(cluster: postgres.Cluster) -> None:
    """Of several hosts those that are away, or can only be read, are passed over."""
    cluster.sql("CREATE DATABASE readonly")
    cluster.sql("ALTER DATABASE readonly SET default_transaction_read_only = on")
    other = postgres.shared()
    other.sql("CREATE DATABASE readonly")
    name = cluster.url("readonly").partition("://")[2].replace(f":{cluster.port}/", "")
    url = f"postgresql://{name.removesuffix('readonly')}:1,127.0.0.1:{cluster.port},127.0.0.1:{other.port}/readonly"
    store = PostgresStore(parse(url), pool=4)
    await store.open()
    await store.ping()
    assert await store.create_task(new_task()) == task_id(1)
    await store.close()
    assert other.sql("SELECT count(*) FROM task", "readonly") == "1"


async def test_a_body_that_is_read_while_the_database_restarts_comes_whole(cluster: postgres.Cluster) -> None:
    """A reader of a large body waits for the database, and goes on where it was."""
    store = PostgresStore(parse(cluster.schema("bodies")), pool=4)
    await store.open()
    whole = bytes(range(256)) * 4096

    async def chunks() -> AsyncIterator[bytes]:
        yield whole

    assert await store.write_body("key", chunks(), len(whole)) == len(whole)
    async with aclosing(store.read_body("key")) as reading:  # type: ignore[type-var]
        read = await anext(reading)
        await asyncio.to_thread(cluster.stop, "immediate")
        await asyncio.to_thread(cluster.start)
        async for piece in reading:
            read += piece
    assert read == whole
    await store.close()
