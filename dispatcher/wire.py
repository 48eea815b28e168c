"""The wire of one session: frames in, frames out.

Nothing here knows what a message means. Garbage, an oversized frame, silence, and a node that reads
too slowly all end as `Broken`, with the close code and the reason that the node is told.
"""

from __future__ import annotations

import asyncio
from collections import deque

from aiohttp import WebSocketError, WSCloseCode, WSMsgType, web

from agent.protocol import (
    SUBPROTOCOL,
    DispatcherGoodbye,
    DispatcherMessage,
    FrameError,
    NodeMessage,
    decode_from_node,
    encode,
)

SEND_SECONDS = 20.0
"""A frame that the node does not take within so long ends the session."""

OUTBOX_BYTES = 64 * 1024 * 1024
"""A node that lets more than this pile up reads too slowly and is shed."""

FRAME_BYTES = 1024 * 1024
"""Messages are gathered into one frame up to about this size."""


class Broken(Exception):
    """The session cannot go on; the close code and the reason are for the node."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Wire:
    """One node's WebSocket, as an `dispatcher.queue.Outlet`."""

    def __init__(self, ws: web.WebSocketResponse) -> None:
        self._ws = ws
        self._outbox: deque[bytes] = deque()
        self._outbox_bytes = 0
        self._news = asyncio.Event()
        self._closing = False

    def send(self, *messages: DispatcherMessage) -> None:
        """Put messages into the outbox."""
        if self._closing:
            return
        for message in messages:
            frame = encode([message])[1:]  # without the array's head: `write` puts several into one array
            self._outbox.append(frame)
            self._outbox_bytes += len(frame)
        if self._outbox_bytes > OUTBOX_BYTES:
            self._closing = True
        self._news.set()

    def close(self, reason: str, retry_after: float = 0) -> None:
        """Say goodbye, after what is in the outbox, and end."""
        self.send(DispatcherGoodbye(reason, retry_after))
        self._closing = True
        self._news.set()

    async def write(self) -> None:
        """Send what the outbox holds until the session is closed from this side."""
        while True:
            await self._news.wait()
            self._news.clear()
            if self._outbox_bytes > OUTBOX_BYTES:
                raise Broken(WSCloseCode.TRY_AGAIN_LATER, "the node reads too slowly")
            while self._outbox:
                batch: list[bytes] = []
                size = 0
                while self._outbox and (not batch or size + len(self._outbox[0]) <= FRAME_BYTES):
                    batch.append(self._outbox.popleft())
                    size += len(batch[-1])
                self._outbox_bytes -= size
                try:
                    async with asyncio.timeout(SEND_SECONDS):
                        await self._ws.send_bytes(_array(batch))
                except TimeoutError:
                    raise Broken(WSCloseCode.TRY_AGAIN_LATER, "the node reads too slowly") from None
            if self._closing:
                raise Broken(WSCloseCode.GOING_AWAY, "closed by the dispatcher")

    async def read(self, seconds: float) -> list[NodeMessage] | None:
        """Give the messages of the next frame; None when the node has closed.

        Raises:
            Broken: Silence for so many seconds, or a frame that is none of ours.
        """
        try:
            async with asyncio.timeout(seconds):
                frame = await self._ws.receive()
        except TimeoutError:
            raise Broken(WSCloseCode.GOING_AWAY, f"nothing heard for {seconds:g} s") from None
        if frame.type is WSMsgType.BINARY:
            try:
                return decode_from_node(frame.data)
            except FrameError as error:
                raise Broken(WSCloseCode.PROTOCOL_ERROR, f"not a frame of {SUBPROTOCOL}: {error}") from None
        if frame.type is WSMsgType.TEXT:
            raise Broken(WSCloseCode.UNSUPPORTED_DATA, "frames are binary")
        if isinstance(frame.data, WebSocketError):
            raise Broken(frame.data.code, f"not a frame: {frame.data}")
        return None


def _array(items: list[bytes]) -> bytes:
    """Make a MessagePack array of encoded items."""
    count = len(items)
    head = bytes([0x90 | count]) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    return head + b"".join(items)
