"""One WebSocket to a dispatcher, from the hello to its end.

Three tasks: one reads, one sends what waits in the outbox, one sends heartbeats. The heartbeat goes
past the outbox, so that no work can hold it up. Whatever ends the session ends it by `SessionOver`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import aiohttp
from aiohttp import WSCloseCode, WSMsgType

from agent.outbox import Outbox, OutboxFull
from agent.protocol import (
    HEARTBEAT_SECONDS,
    SILENCE_SECONDS,
    DispatcherGoodbye,
    DispatcherHeartbeat,
    DispatcherHello,
    DispatcherMessage,
    FrameError,
    NodeHeartbeat,
    NodeHello,
    NodeMessage,
    decode_from_dispatcher,
    encode,
)
from agent.round_trip import RoundTrips
from agent.vitals import Vitals

HELLO_SECONDS = 10.0
"""The dispatcher's hello must come within so long."""


class Node(Protocol):
    """What the session speaks for. None of it blocks."""

    def hello(self) -> NodeHello:
        """Say what this node is and what it still holds."""

    def heartbeat(self, sent: int) -> NodeHeartbeat:
        """Say how this node is; ``sent`` goes into it."""

    def opened(self, hello: DispatcherHello) -> None:
        """Take the dispatcher's hello: from now on messages can be sent."""

    def received(self, message: DispatcherMessage) -> None:
        """Take a message that concerns work."""

    def removed(self) -> None:
        """Hear that the account does not want this node any more."""


class SessionOver(Exception):
    """The session ended.

    Attributes:
        reason: A sentence for the log.
        code: What the WebSocket is closed with, where we close it.
        retry_after: Seconds that the dispatcher asks to wait.
        lived: Seconds from the dispatcher's hello.
    """

    def __init__(self, reason: str, code: int = WSCloseCode.OK, retry_after: float = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code
        self.retry_after = retry_after
        self.lived = 0.0


class Session:
    """The wire of one session.

    Args:
        socket: A connected WebSocket, which the session closes.
        round_trips: Takes what the heartbeats measure.
        vitals: Hears of each frame that came and each heartbeat that left.
    """

    def __init__(
        self,
        socket: aiohttp.ClientWebSocketResponse[bool],
        node: Node,
        round_trips: RoundTrips,
        vitals: Vitals,
        *,
        wall: Callable[[], float] = time.time,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._socket = socket
        self._node = node
        self._round_trips = round_trips
        self._vitals = vitals
        self._wall = wall
        self._monotonic_ns = monotonic_ns
        self._outbox = Outbox()
        self._sent: deque[int] = deque(maxlen=8)
        """Heartbeats whose answer may still come."""
        self._beat_now = asyncio.Event()
        self._broken: SessionOver | None = None
        self._over = asyncio.Event()
        self.is_open = False
        self.heard_ns: int | None = None
        """When the last frame came, by the monotonic clock."""

    def send(self, message: NodeMessage) -> None:
        """Let a message leave with the next frame."""
        try:
            self._outbox.put(message)
        except OutboxFull:
            self._broken = SessionOver("the dispatcher does not read", WSCloseCode.TRY_AGAIN_LATER)
            self._beat_now.set()

    def beat_now(self) -> None:
        """Send a heartbeat at once: something that it says has changed."""
        self._beat_now.set()

    async def leave(self) -> None:
        """Send what waits and end the session."""
        self._outbox.close()
        await self._over.wait()

    async def run(self) -> SessionOver:
        """Speak until the session is over, and say why it is."""
        opened_ns = None
        over: SessionOver | None = None
        try:
            try:
                await self._greet()
                opened_ns = self._monotonic_ns()
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._read(), name="session reader")
                    tasks.create_task(self._write(), name="session writer")
                    tasks.create_task(self._beat(), name="session heartbeat")
            except* SessionOver as group:
                over = _first(group)
            except* (aiohttp.ClientError, ConnectionError) as connection:
                broke = f"the connection broke: {_first_error(connection)}"
                over = over or SessionOver(broke, WSCloseCode.GOING_AWAY)
        finally:
            self.is_open = False
            self._over.set()
            self._vitals.rest("heartbeat")
            # Where the task is cancelled there is no `over`; the socket is closed all the same.
            code = over.code if over is not None else WSCloseCode.GOING_AWAY
            await self._socket.close(code=code, message=(over.reason if over else "").encode()[:100])
        assert over is not None  # noqa: S101 - none of the three tasks ends without raising
        if opened_ns is not None:
            over.lived = (self._monotonic_ns() - opened_ns) / 1e9
        return over

    async def _greet(self) -> None:
        await self._send_frame([self._node.hello()])
        messages = await self._receive(HELLO_SECONDS)
        if not messages or not isinstance(messages[0], DispatcherHello):
            if messages and isinstance(messages[0], DispatcherGoodbye):
                self._take(messages[0])
            raise SessionOver("the dispatcher's first message is not a hello", WSCloseCode.PROTOCOL_ERROR)
        self.is_open = True
        self._node.opened(messages[0])
        for message in messages[1:]:
            self._take(message)

    async def _read(self) -> None:
        while True:
            for message in await self._receive(SILENCE_SECONDS):
                self._take(message)

    def _take(self, message: DispatcherMessage) -> None:
        match message:
            case DispatcherHeartbeat(echo, wall_ms):
                if echo in self._sent:
                    self._sent.remove(echo)
                    if self._round_trips.median_ms is None:
                        self._beat_now.set()  # the dispatcher should not wait for the first figure
                    self._round_trips.add((self._monotonic_ns() - echo) / 1e6, wall_ms, self._wall() * 1000)
            case DispatcherGoodbye(reason, retry_after):
                raise SessionOver(f"the dispatcher says goodbye: {reason}", retry_after=retry_after)
            case DispatcherHello():
                raise SessionOver("the dispatcher said hello twice", WSCloseCode.PROTOCOL_ERROR)
            case _:
                self._node.received(message)

    async def _write(self) -> None:
        while True:
            frame = await self._outbox.take()
            if not frame:
                raise SessionOver("this node leaves")
            await self._send_frame(frame)

    async def _beat(self) -> None:
        """Send heartbeats, the first at once: it measures the first round trip."""
        while True:
            if self._broken is not None:
                raise self._broken
            sent = self._monotonic_ns()
            self._sent.append(sent)
            await self._send_frame([self._node.heartbeat(sent)])
            self._vitals.beat("heartbeat")
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await self._beat_now.wait()
            except TimeoutError:
                pass
            self._beat_now.clear()

    async def _send_frame(self, messages: list[NodeMessage]) -> None:
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                await self._socket.send_bytes(encode(messages))
        except TimeoutError:
            raise SessionOver("the dispatcher does not read", WSCloseCode.TRY_AGAIN_LATER) from None

    async def _receive(self, seconds: float) -> list[DispatcherMessage]:
        try:
            async with asyncio.timeout(seconds):
                message = await self._socket.receive()
        except TimeoutError:
            raise SessionOver(f"nothing heard for {seconds:g} s", WSCloseCode.GOING_AWAY) from None
        if message.type is WSMsgType.BINARY:
            self.heard_ns = self._monotonic_ns()
            self._vitals.beat("link")
            try:
                return decode_from_dispatcher(message.data)
            except FrameError as error:
                raise SessionOver(f"a frame that cannot be read: {error}", WSCloseCode.PROTOCOL_ERROR) from None
        if message.type is WSMsgType.TEXT:
            raise SessionOver("a frame that is text", WSCloseCode.PROTOCOL_ERROR)
        if message.type is WSMsgType.ERROR:  # aiohttp has closed with the code that fits, such as 1009
            raise SessionOver(f"a frame that cannot be read: {message.data}", WSCloseCode.PROTOCOL_ERROR)
        code = self._socket.close_code
        said = message.extra if isinstance(message.extra, str) and message.extra else "no reason given"
        raise SessionOver(f"closed by the dispatcher with {code}: {said}")


def _first(group: BaseExceptionGroup[SessionOver]) -> SessionOver:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, SessionOver)  # noqa: S101 - narrowed by `except*`
    return error


def _first_error(group: BaseExceptionGroup[Exception]) -> str:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__
