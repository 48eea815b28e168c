"""Tasks that run before they are in the store: written with their end, or soon, or at any other news of them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, cast

import pytest
from msgspec.structs import replace

from agent.protocol import Lease, Revision
from dispatcher.drafts import TOGETHER_WAITING, Draft, Drafts, may_be_draft
from dispatcher.store.base import Store
from dispatcher.store.errors import StoreUnavailable
from dispatcher.store.records import Ended, NewTask

REVISION = Revision("f" * 24, 1, "image")
NEW = NewTask("1" * 24, "account", REVISION, 1, "", [], b"in", 2)
LEASE = Lease(NEW.id, 1, bytes(16))
OTHER = Lease("2" * 24, 1, bytes(16))
ANSWER = Ended(2, 200, [], b"out", 3)


class NotingStore:
    """Notes what is written, or fails."""

    def __init__(self) -> None:
        self.written: list[tuple[str, Any]] = []
        self.fails = False

    async def _write(self, kind: str, what: Any) -> None:
        await asyncio.sleep(0)
        if self.fails:
            raise StoreUnavailable("no disk")
        self.written.append((kind, what))

    async def create_task(self, new: NewTask) -> str:
        await self._write("queued", new.id)
        return new.id

    async def create_given(
        self, new: NewTask, _: Lease, node: str, __: int, *, accepted: bool, ended: Ended | None = None
    ) -> None:
        await self._write("ended" if ended else "given", (new.id, node, accepted))


class World:
    """Drafts over a store that notes; what the queue is told of them."""

    def __init__(self) -> None:
        self.store = NotingStore()
        self.told: list[str] = []
        self.drafts = Drafts(
            cast("Store", self.store),
            waits=lambda _: self.told.append("waits"),
            withdrawn=lambda _: self.told.append("withdrawn"),
        )

    def given(self, lease: Lease = LEASE) -> Draft:
        draft = self.drafts.add(replace(NEW, id=lease.task))
        assert self.drafts.take(REVISION.key) is draft
        draft.give(lease, "node", 1)
        return draft

    def crowd(self) -> None:
        """Let so many tasks wait for a node that ends wait for each other."""
        for number in range(TOGETHER_WAITING):
            self.drafts.add(replace(NEW, id=f"{number:024x}"))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr("dispatcher.drafts.WRITE_SECONDS", 0.01)
    return World()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> World:
    """One in which nothing is written for its age."""
    monkeypatch.setattr("dispatcher.drafts.WRITE_SECONDS", 60.0)
    return World()


async def test_is_written_with_its_end(world: World) -> None:
    """One write, and its caller learns the end when that is done; then it is a task like any other."""
    draft = world.given()
    assert world.drafts.accept(LEASE)
    assert await world.drafts.finish(LEASE, "node", ANSWER)
    assert draft.settled.result() == ANSWER
    assert not await world.drafts.finish(LEASE, "node", ANSWER)
    await world.drafts.written(NEW.id)
    assert world.store.written == [("ended", (NEW.id, "node", True))]


async def test_is_written_soon(world: World) -> None:
    """One that takes longer is written as it stands: with its node, or waiting for one."""
    draft = world.given()
    assert await draft.settled is None
    waiting = world.drafts.add(replace(NEW, id="2" * 24))
    assert await waiting.settled is None
    assert world.store.written == [("given", (NEW.id, "node", False)), ("queued", "2" * 24)]
    assert world.told == ["withdrawn", "waits"]
    assert world.drafts.take(REVISION.key) is None
    assert not world.drafts.accept(LEASE)


async def test_is_written_before_anything_else_is_done_to_it(world: World) -> None:
    """Whoever asks for that waits until it is in the store, also while it is on its way."""
    draft = world.given()
    await asyncio.gather(world.drafts.written(NEW.id), world.drafts.written(NEW.id))
    assert world.store.written == [("given", (NEW.id, "node", False))]
    assert not await world.drafts.finish(LEASE, "node", ANSWER)
    assert await draft.settled is None


async def test_nobody_but_its_node_can_end_it(world: World) -> None:
    """Another lease or another node brings it into the store, where it is refused."""
    world.given()
    assert not await world.drafts.finish(LEASE, "other", ANSWER)
    assert world.store.written == [("given", (NEW.id, "node", False))]


@pytest.mark.parametrize("ends", [True, False])
async def test_its_caller_hears_when_it_cannot_be_written(world: World, ends: bool) -> None:
    """Nothing is known of it then, and whoever else asks hears the same."""
    draft = world.given()
    world.store.fails = True
    with pytest.raises(StoreUnavailable):
        await (world.drafts.finish(LEASE, "node", ANSWER) if ends else world.drafts.written(NEW.id))
    with pytest.raises(StoreUnavailable):
        await draft.settled


async def test_ends_share_a_commit_while_tasks_wait_for_a_node(patient: World) -> None:
    """The first waits a moment for the next."""
    drafts = [patient.given(), patient.given(OTHER)]
    patient.crowd()
    first = asyncio.create_task(patient.drafts.finish(LEASE, "node", ANSWER))
    await asyncio.sleep(0)
    assert not patient.store.written
    await asyncio.gather(first, patient.drafts.finish(OTHER, "node", ANSWER))
    assert [draft.settled.result() for draft in drafts] == [ANSWER, ANSWER]


async def test_no_end_waits_when_a_node_might_have_to(patient: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as few tasks wait, the ends that waited for others are written with the next."""
    monkeypatch.setattr("dispatcher.drafts.TOGETHER_SECONDS", 60.0)
    patient.given()
    patient.given(OTHER)
    patient.crowd()
    first = asyncio.create_task(patient.drafts.finish(LEASE, "node", ANSWER))
    await asyncio.sleep(0)
    patient.drafts.take(REVISION.key)
    assert await patient.drafts.finish(OTHER, "node", ANSWER)
    assert await first


@pytest.mark.parametrize("fails", [True, False])
async def test_an_end_on_its_way_is_waited_for(patient: World, fails: bool) -> None:
    """Whoever does something else to the task finds it in the store, or hears that it is not there."""
    patient.given()
    patient.crowd()
    patient.store.fails = fails
    end = asyncio.create_task(patient.drafts.finish(LEASE, "node", ANSWER))
    await asyncio.sleep(0)
    heard = pytest.raises(StoreUnavailable) if fails else contextlib.nullcontext()
    with heard:
        await patient.drafts.written(NEW.id)
    assert fails or ("ended", (NEW.id, "node", False)) in patient.store.written
    with heard:
        await end


async def test_all_are_written_at_the_end(world: World) -> None:
    """The dispatcher does not stop before they are in the store."""
    world.given()
    world.drafts.add(replace(NEW, id="2" * 24))
    await world.drafts.close()
    assert [kind for kind, _ in world.store.written] == ["given", "queued"]


@pytest.mark.parametrize(
    "new",
    [
        replace(NEW, idempotency_key="key"),
        replace(NEW, body=None, body_key=NEW.id),
        replace(NEW, revision=Revision("f" * 24, 1, "image", retries=0)),
    ],
)
def test_some_tasks_are_written_first(new: NewTask) -> None:
    """What must not run twice, may be asked for again, or has its input in the store."""
    assert may_be_draft(NEW)
    assert not may_be_draft(new)
