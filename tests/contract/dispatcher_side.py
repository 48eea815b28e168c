"""The dispatcher's side of the session, as small as it can be, on a real WebSocket server."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from agent.protocol import (
    FRAME_LIMIT,
    LEASE_HEADER,
    OFFSET_HEADER,
    SHA256_HEADER,
    SIZE_HEADER,
    SUBPROTOCOL,
    DispatcherHeartbeat,
    DispatcherHello,
    DispatcherMessage,
    Lease,
    NodeHeartbeat,
    NodeHello,
    NodeMessage,
    decode_from_node,
    encode,
)

DEADLINE = 10.0
CREDENTIAL = "node-credential"
NODE_ID = "1a061cfd-df01-4b02-a067-5122c5941e15"

M = TypeVar("M")


class Session:
    """One node's session, from its hello on."""

    def __init__(self, ws: web.WebSocketResponse, hello: NodeHello) -> None:
        self.ws = ws
        self.hello = hello
        self.ended = asyncio.Event()
        self.answers_heartbeats = True
        self._inbox: asyncio.Queue[NodeMessage] = asyncio.Queue()
        self._passed_over: list[NodeMessage] = []

    async def welcome(self, abandon: list[Lease] | None = None, result_limit: int = 1024 * 1024) -> None:
        """Say hello, and keep all that is not abandoned."""
        dropped = abandon or []
        keep = [held.lease for held in self.hello.held if held.lease not in dropped]
        await self.send(DispatcherHello("0", keep, dropped, result_limit, 0))

    async def send(self, *messages: DispatcherMessage) -> None:
        """Send messages in one frame."""
        await self.ws.send_bytes(encode(list(messages)))

    async def expect(self, kind: type[M], where: Callable[[M], bool] = lambda _: True) -> M:
        """Give the next message of a kind; others that come before wait for their own `expect`."""
        for message in self._passed_over:
            if isinstance(message, kind) and where(message):
                self._passed_over.remove(message)
                return message
        async with asyncio.timeout(DEADLINE):
            while True:
                message = await self._inbox.get()
                if isinstance(message, kind) and where(message):
                    return message
                self._passed_over.append(message)

    def seen(self, kind: type[M]) -> list[M]:
        """List messages of a kind that came and were not expected yet."""
        while not self._inbox.empty():
            self._passed_over.append(self._inbox.get_nowait())
        return [message for message in self._passed_over if isinstance(message, kind)]

    def pass_over(self) -> None:
        """Expect nothing any more of what came until now."""
        self.seen(NodeHeartbeat)
        self._passed_over.clear()

    async def over(self) -> int | None:
        """Wait for the end and give the code that the node closed with."""
        async with asyncio.timeout(DEADLINE):
            await self.ended.wait()
        return self.ws.close_code

    async def read(self) -> None:
        """Take frames until the end."""
        async for frame in self.ws:
            assert frame.type is aiohttp.WSMsgType.BINARY
            for message in decode_from_node(frame.data):
                if isinstance(message, NodeHeartbeat) and self.answers_heartbeats:
                    await self.send(DispatcherHeartbeat(message.sent, 0))
                self._inbox.put_nowait(message)
        self.ended.set()


class Dispatcher:
    """A server that a node can connect to.

    Attributes:
        refusals: Answers to the next requests for a session, in place of one.
        inputs: What `GET …/input` answers, by task.
        input_cuts: Of the next answers to `GET …/input`, so many bytes, after which the connection breaks.
        results: What was uploaded whole, by the lease's header.
        parts: What is kept of results, by the lease's header.
        result_statuses: Answers to the next uploads, before they are taken.
        result_cuts: Of the next uploads, so many bytes are kept, then the connection breaks.
        uploads: Offsets of all uploads, in order.
        asked: Times of requests for a session, by the loop's clock.
    """

    def __init__(self) -> None:
        self.url = ""
        self.refusals: list[web.Response] = []
        self.inputs: dict[str, bytes] = {}
        self.input_cuts: list[int] = []
        self.results: dict[str, bytes] = {}
        self.parts: dict[str, bytes] = {}
        self.result_cuts: list[int] = []
        self.uploads: list[int] = []
        self.result_statuses: list[int] = []
        self.asked: list[float] = []
        self._sessions: asyncio.Queue[Session] = asyncio.Queue()

    async def session(self) -> Session:
        """Give the next session, after the node's hello and before ours."""
        async with asyncio.timeout(DEADLINE):
            return await self._sessions.get()

    async def welcomed(self, abandon: list[Lease] | None = None) -> Session:
        """Give the next session, after both hellos."""
        session = await self.session()
        await session.welcome(abandon)
        return session

    async def _serve_session(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(asyncio.get_running_loop().time())
        assert request.headers["Authorization"] == f"Bearer {CREDENTIAL}"
        if self.refusals:
            return self.refusals.pop(0)
        ws = web.WebSocketResponse(protocols=(SUBPROTOCOL,), compress=False, max_msg_size=FRAME_LIMIT)
        await ws.prepare(request)
        assert ws.ws_protocol == SUBPROTOCOL
        frame = await ws.receive(timeout=DEADLINE)
        (hello,) = decode_from_node(frame.data)
        assert isinstance(hello, NodeHello)
        session = Session(ws, hello)
        self._sessions.put_nowait(session)
        try:
            await session.read()
        finally:
            session.ended.set()
        return ws

    async def _serve_input(self, request: web.Request) -> web.StreamResponse:
        assert request.headers["Authorization"] == f"Bearer {CREDENTIAL}"
        Lease.from_header(request.match_info["task"], request.headers[LEASE_HEADER])
        body = self.inputs.get(request.match_info["task"])
        if body is None:
            return web.Response(status=409)
        start = request.http_range.start or 0
        response = web.StreamResponse(status=206 if start else 200)
        response.content_length = len(body) - start
        await response.prepare(request)
        end = start + self.input_cuts.pop(0) if self.input_cuts else len(body)
        await response.write(body[start:end])
        if end < len(body):
            assert request.transport is not None
            request.transport.close()
        return response

    async def _show_upload(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == f"Bearer {CREDENTIAL}"
        return web.Response(headers={OFFSET_HEADER: str(len(self.parts.get(request.headers[LEASE_HEADER], b"")))})

    async def _take_result(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == f"Bearer {CREDENTIAL}"
        lease, offset = request.headers[LEASE_HEADER], int(request.headers[OFFSET_HEADER])
        self.uploads.append(offset)
        part = self.parts.get(lease, b"")
        if offset != len(part):
            return web.Response(status=416, headers={OFFSET_HEADER: str(len(part))})
        if self.result_cuts:
            self.parts[lease] = part + await request.content.readexactly(self.result_cuts.pop(0))
            assert request.transport is not None
            request.transport.abort()
            return web.Response(status=500)
        body = part + await request.read()
        if self.result_statuses and (status := self.result_statuses.pop(0)) != 204:
            return web.Response(status=status)
        assert len(body) == int(request.headers[SIZE_HEADER])
        if hashlib.sha256(body).hexdigest() != request.headers[SHA256_HEADER]:
            self.parts.pop(lease, None)
            return web.Response(status=422)
        self.parts[lease] = self.results[lease] = body
        return web.Response(status=204)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Dispatcher]:
        """Serve on a free port."""
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_get(f"/v1/node/{NODE_ID}/session", self._serve_session)
        app.router.add_get(f"/v1/node/{NODE_ID}/task/{{task}}/input", self._serve_input)
        app.router.add_head(f"/v1/node/{NODE_ID}/task/{{task}}/result", self._show_upload)
        app.router.add_put(f"/v1/node/{NODE_ID}/task/{{task}}/result", self._take_result)
        server = TestServer(app)
        await server.start_server()
        self.url = str(server.make_url("")).rstrip("/")
        try:
            yield self
        finally:
            await server.close()
