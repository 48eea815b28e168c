"""A node that does not keep to the rules: the same outcome twice, another node's lease, a lease that is over."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import aiohttp
import pytest
from msgspec.structs import replace

from agent.protocol import (
    LEASE_HEADER,
    SUBPROTOCOL,
    Accept,
    Capabilities,
    Credit,
    DispatcherHello,
    DispatcherMessage,
    GiveBack,
    Held,
    Lease,
    NodeHello,
    NodeMessage,
    Offer,
    Outcome,
    OutcomeAck,
    decode_from_dispatcher,
    encode,
)
from tests.chaos.tally import Tally
from tests.chaos.workload import Client, Entry
from tests.chaos.world import World, world

pytestmark = [pytest.mark.engine, pytest.mark.chaos, pytest.mark.usefixtures("image")]

M = TypeVar("M", bound=DispatcherMessage)
ROOM = Credit(cpu=4, memory=4096, slots=4)


class Rogue:
    """A node made of nothing but its messages."""

    def __init__(self, made: World, node_id: str, credential: str) -> None:
        self.node_id = node_id
        self.address = f"{made.dispatcher.url}/v1/node/{node_id}"
        self.headers = {"Authorization": credential}
        self._http = made.client.http
        self._socket: aiohttp.ClientWebSocketResponse[bool] | None = None
        self._inbox: list[DispatcherMessage] = []

    @classmethod
    async def join(cls, made: World) -> Rogue:
        """Become a node of the account."""
        node_id = str(uuid.uuid4())
        _, token, _ = await made.client.ask("POST", "/v1/node/join-token", json={})
        status, joined, _ = await made.client.ask(
            "POST", f"/v1/node/{node_id}", json={"description": ""}, headers={"Authorization": token["token"]}
        )
        assert status == 201, joined
        return cls(made, node_id, joined["credential"])

    @asynccontextmanager
    async def session(self, *held: Held, credit: Credit = ROOM) -> AsyncIterator[DispatcherHello]:
        """Hold a session for a while."""
        async with self._http.ws_connect(
            f"{self.address}/session", protocols=(SUBPROTOCOL,), headers=self.headers
        ) as self._socket:
            self._inbox.clear()
            await self.send(NodeHello("0", Capabilities(cpu_count=4, mem_size=4096), credit, held=list(held)))
            yield await self.expect(DispatcherHello)

    async def send(self, *messages: NodeMessage) -> None:
        """Send messages in one frame."""
        assert self._socket is not None
        await self._socket.send_bytes(encode(messages))

    async def expect(self, kind: type[M], where: Callable[[M], bool] = lambda _: True) -> M:
        """Give the next message of a kind."""
        assert self._socket is not None
        async with asyncio.timeout(15):
            while True:
                for message in self._inbox:
                    if isinstance(message, kind) and where(message):
                        self._inbox.remove(message)
                        return message
                frame = await self._socket.receive()
                assert frame.type is aiohttp.WSMsgType.BINARY, frame
                self._inbox += decode_from_dispatcher(frame.data)

    async def take(self, entry: Entry) -> Lease:
        """Wait for the offer of a task and accept it."""
        offer = await self.expect(Offer, lambda offer: offer.lease.task == entry.id)
        await self.send(Accept(offer.lease, replace(ROOM, offers_seen=offer.number)))
        return offer.lease

    async def acknowledged(self) -> bool:
        """Wait for the answer to an outcome: was it recorded?"""
        return (await self.expect(OutcomeAck)).recorded


def outcome(lease: Lease, body: bytes) -> Outcome:
    return Outcome(lease, "answered", status=200, body=body, body_size=len(body))


async def body_of(client: Client, entry: Entry) -> bytes:
    async with client.http.get(
        f"{client.url}/v1/task/{entry.id}/result", headers={"Authorization": client.token}
    ) as response:
        assert response.status == 200
        return await response.read()


async def test_same_outcome_twice(tmp_path: Path, tally: Tally) -> None:
    """Repeated at once, and in the next session: acknowledged each time, recorded once. The first answer stands."""
    async with world(tmp_path, tally, "twice", agents=0) as made:
        rogue = await Rogue.join(made)
        entry = await made.client.submit()
        async with rogue.session():
            lease = await rogue.take(entry)
            tally.fault("outcome sent twice")
            await rogue.send(outcome(lease, b'"first"'), outcome(lease, b'"second"'))
            assert await rogue.acknowledged()
            assert await rogue.acknowledged()
        async with rogue.session(Held(lease, finished=True)):
            await rogue.send(outcome(lease, b'"third"'))
            tally.fault("outcome sent again in the next session")
            await rogue.send(outcome(lease, b'"third"'))
            await rogue.acknowledged()
        assert await body_of(made.client, entry) == b'"first"'
        tally.audited += 1


async def test_stolen_lease(tmp_path: Path, tally: Tally) -> None:
    """Another node that knows a lease to the last byte can neither end its task, nor give it back, nor read it."""
    async with world(tmp_path, tally, "stolen", agents=0) as made:
        owner, thief = await Rogue.join(made), await Rogue.join(made)
        entry = await made.client.submit()
        async with owner.session(), thief.session(credit=Credit()):
            lease = await owner.take(entry)
            tally.fault("lease stolen")
            await thief.send(outcome(lease, b'"stolen"'))
            assert not await thief.acknowledged()
            await thief.send(GiveBack(lease, "stolen", started=False, credit=Credit()))
            headers = thief.headers | {LEASE_HEADER: lease.header()}
            http = made.client.http
            async with http.put(f"{thief.address}/task/{entry.id}/result", data=b"x", headers=headers) as answer:
                assert answer.status == 409
            async with http.get(f"{thief.address}/task/{entry.id}/input", headers=headers) as answer:
                assert answer.status in {404, 409}
            assert (await made.client.task(entry))["state"] != "finished"
            await owner.send(outcome(lease, b'"owned"'))
            assert await owner.acknowledged()
        assert await body_of(made.client, entry) == b'"owned"'
        tally.audited += 1


async def test_replayed_lease(tmp_path: Path, tally: Tally) -> None:
    """A lease whose task has another holder is refused, and told to go; the new holder's answer is the answer."""
    async with world(tmp_path, tally, "replayed", agents=0) as made:
        first, second = await Rogue.join(made), await Rogue.join(made)
        entry = await made.client.submit()
        async with first.session():
            old = await first.take(entry)
            await first.send(GiveBack(old, "lost", started=True, credit=Credit()))
            async with second.session():
                new = await second.take(entry)
                assert (new.attempt, old.attempt) == (2, 1)
                tally.fault("lease replayed")
                for replay in (outcome(old, b'"old"'), outcome(replace(old, attempt=2), b'"forged"')):
                    await first.send(replay)
                    assert not await first.acknowledged()
                await second.send(outcome(new, b'"new"'))
                assert await second.acknowledged()
        assert await body_of(made.client, entry) == b'"new"'
        tally.audited += 1
