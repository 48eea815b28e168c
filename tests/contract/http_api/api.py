"""A caller of the API, and a node: both speak to the application over real sockets."""

from __future__ import annotations

import asyncio
import hashlib
import io
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Literal, TypeVar

import aiohttp
import msgspec
from multidict import CIMultiDictProxy
from yarl import URL

from agent.protocol import (
    SUBPROTOCOL,
    Accept,
    Capabilities,
    Credit,
    DispatcherHello,
    DispatcherMessage,
    Headers,
    Held,
    Lease,
    NodeHello,
    NodeMessage,
    Offer,
    Outcome,
    OutcomeAck,
    Output,
    Progress,
    decode_from_dispatcher,
    encode,
)
from dispatcher.config import DispatcherConfig, LimitsConfig, ServerConfig
from dispatcher.store.sqlite import SqliteStore

SECONDS = 10.0
"""Whatever is waited for comes within so long, or the test fails."""

CONFIG = DispatcherConfig(
    server=ServerConfig(listen="127.0.0.1:0", read_timeout=1, stop_grace=1, connections=50),
    limits=LimitsConfig(body=1024 * 1024, result=2 * 1024 * 1024, query=2048, headers=8192, queue_length=20),
)
"""Small limits, so that tests reach them quickly."""

CAPABILITIES = Capabilities(8, 8192, 1.5)

T = TypeVar("T")


class Answer(msgspec.Struct):
    """An HTTP answer that was read whole."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    def problem(self, status: int, code: str) -> dict[str, Any]:
        """Check that this is such a problem document, and give it."""
        assert (self.status, self.headers["Content-Type"]) == (status, "application/problem+json"), self.body
        found: dict[str, Any] = self.json()
        assert found["code"] == code, found
        assert found["status"] == status
        assert found["title"]
        assert found["type"].startswith("urn:fernd:problem:")
        assert found["detail"]
        return found


class Api:
    """A caller of the API, for one account."""

    def __init__(self, http: aiohttp.ClientSession, url: str, token: str, store: SqliteStore) -> None:
        self.http = http
        self.url = url
        self.token = token
        self.store = store

    @property
    def port(self) -> int:
        return URL(self.url).port or 0

    async def __call__(
        self, method: str, path: str, *, content: Any = None, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Send a request with this account's token, unless the headers say otherwise."""
        if content is not None:
            body = msgspec.json.encode(content)
        if isinstance(body, bytes):
            body = io.BytesIO(body)
        sent = {"Authorization": f"Bearer {self.token}"} | (headers or {})
        async with self.http.request(method, URL(self.url + path, encoded=True), data=body, headers=sent) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def function(self, name: str = "hello", image: str = "hello:latest", **more: Any) -> str:
        """Create a function and give its id."""
        answer = await self("POST", "/v1/function", content={"name": name, "type": "DOCKER", "image": image} | more)
        assert answer.status == 201, answer.body
        return str(answer.json()["id"])

    async def task(self, function_id: str, **request: Any) -> str:
        """Create a task and give its id."""
        answer = await self("POST", f"/v1/task/{function_id}", **request)
        assert answer.status == 201, answer.body
        return str(answer.json()["id"])

    async def join(self, node_id: str | None = None) -> tuple[str, str]:
        """Join a node; give its id and credential."""
        node_id = node_id or str(uuid.uuid4())
        token = (await self("POST", "/v1/node/join-token")).json()["token"]
        answer = await self(
            "POST", f"/v1/node/{node_id}", content={"description": "a node"}, headers={"Authorization": token}
        )
        assert answer.status == 201, answer.body
        return node_id, str(answer.json()["credential"])


def whole(content: bytes) -> dict[str, str]:
    """Say what an upload will be when it is whole."""
    return {"X-Fernd-Size": str(len(content)), "X-Fernd-Sha256": hashlib.sha256(content).hexdigest()}


class Node:
    """A node: a WebSocket that speaks `agent.protocol`, and does what the test says."""

    def __init__(self, api: Api, node_id: str, credential: str) -> None:
        self.api = api
        self.id = node_id
        self.credential = credential
        self._incoming: list[DispatcherMessage] = []
        self.ws: aiohttp.ClientWebSocketResponse

    async def open(
        self, *, slots: int = 8, held: Sequence[Held] = (), capabilities: Capabilities = CAPABILITIES
    ) -> DispatcherHello:
        """Begin a session with credit for some tasks."""
        self.ws = await self.api.http.ws_connect(
            f"{self.api.url}/v1/node/{self.id}/session",
            protocols=(SUBPROTOCOL,),
            headers={"Authorization": f"Bearer {self.credential}"},
        )
        self.credit = Credit(cpu=8, memory=8192, slots=slots)
        await self.send(NodeHello("0.1.0", capabilities, self.credit, held=list(held)))
        return await self.receive(DispatcherHello)

    async def send(self, *messages: NodeMessage) -> None:
        await self.ws.send_bytes(encode(list(messages)))

    async def receive(self, kind: type[T]) -> T:
        """Wait for the next message of a kind."""
        async with asyncio.timeout(SECONDS):
            while True:
                for index, message in enumerate(self._incoming):
                    if isinstance(message, kind):
                        del self._incoming[index]
                        return message
                self._incoming += decode_from_dispatcher(await self.ws.receive_bytes())

    async def take(self) -> Offer:
        """Accept the next offer."""
        offer = await self.receive(Offer)
        await self.send(Accept(offer.lease, self.credit))
        return offer

    async def run(self, *, status: int = 200, headers: Headers | None = None, body: bytes = b"", **more: Any) -> Offer:
        """Accept the next offer and answer it; returns when the outcome is committed."""
        offer = await self.take()
        await self.finish(offer.lease, status=status, headers=headers or [], body=body, **more)
        return offer

    async def finish(self, lease: Lease, **outcome: Any) -> OutcomeAck:
        """Report how an attempt ended."""
        await self.send(Outcome(lease, **({"ending": "answered"} | outcome)))
        return await self.receive(OutcomeAck)

    async def progress(self, lease: Lease, percent: int, sequence: int = 1, message: str = "") -> None:
        await self.send(Progress(lease, sequence, "running", percent, message))

    async def pulled(self, lease: Lease, done: int, total: int, sequence: int = 1) -> None:
        await self.send(Progress(lease, sequence, "pulling", pulled=(done, total)))

    async def wrote(self, lease: Lease, *lines: tuple[Literal["stdout", "stderr"], bytes], sequence: int = 1) -> None:
        await self.send(Output(lease, sequence, list(lines)))


Serve = Callable[[DispatcherConfig], Awaitable[Api]]
"""Starts the application with a configuration."""


async def pieces(count: int) -> AsyncIterator[bytes]:
    """Give a body of so many pieces of 64 KiB, whose length is not announced."""
    for _ in range(count):
        yield b"x" * 65_536
