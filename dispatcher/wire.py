"""The wire of one session: frames in, frames out.

Nothing here knows what a message means. Garbage, an oversized frame, silence, and a node that reads
too slowly all end as `Broken`, with the close code and the reason that the node is told.
"""

from __future__ import annotations

import asyncio

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
    """One node's WebSocket, as an `dispatcher.queue.Outlet`. What is idle costs little: thousands of them are."""

    def __init__(self, ws: web.WebSocketResponse) -> None:
        self._ws = ws
        self._outbox: list[bytes] = []
        self._outbox_bytes = 0
        self._group: asyncio.TaskGroup | None = None
        self._writer: asyncio.Task[None] | None = None
        """Sends what the outbox holds, and is there only while it holds something."""
        self._closing = False

    def send(self, *messages: DispatcherMessage) -> None:
        """Put messages into the outbox."""
        if self._closing:
            return
        for message in messages:
            frame = encode([message])[1:]  # without the array's head: `_write` puts several into one array
            self._outbox.append(frame)
            self._outbox_bytes += len(frame)
        if self._outbox_bytes > OUTBOX_BYTES:
            self._closing = True
        self._write_soon()

    def close(self, reason: str, retry_after: float = 0) -> None:
        """Say goodbye, after what is in the outbox, and end."""
        if self._closing:
            return
        self.send(DispatcherGoodbye(reason, retry_after))
        self._closing = True

    def begin(self, group: asyncio.TaskGroup) -> None:
        """Send what is in the outbox from now on. The group fails when the session is closed from this side."""
        self._group = group
        if self._outbox:
            self._write_soon()

    def end(self) -> None:
        """Send no more. Nothing is begun in the group from now on."""
        self._group, self._closing = None, True
        if self._writer is not None:
            self._writer.cancel()

    def _write_soon(self) -> None:
        if self._writer is None and self._group is not None:
            self._writer = self._group.create_task(self._write(), name="session writer")

    async def _write(self) -> None:
        try:
            await self._empty_outbox()
        except BaseException:
            # The group ends with this, and takes nothing new.
            self._group, self._closing = None, True
            raise
        finally:
            self._writer = None

    async def _empty_outbox(self) -> None:
        while self._outbox:
            if self._outbox_bytes > OUTBOX_BYTES:
                raise Broken(WSCloseCode.TRY_AGAIN_LATER, "the node reads too slowly")
            count, size = 1, len(self._outbox[0])
            while count < len(self._outbox) and size + len(self._outbox[count]) <= FRAME_BYTES:
                size += len(self._outbox[count])
                count += 1
            frame = _array(self._outbox[:count])
            del self._outbox[:count]
            self._outbox_bytes -= size
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await self._ws.send_bytes(frame)
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
