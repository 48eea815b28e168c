"""What waits to be sent in one session.

Messages that became ready together leave in one frame. What others depend on (accepts, outcomes and
the like) is never dropped and keeps its order. Progress and output are for watchers: of an attempt's
progress only the newest waits, of its output a bounded part, and both yield to the rest.
"""

from __future__ import annotations

import asyncio
from collections import deque

import msgspec

from agent.protocol import GiveBack, Lease, NodeMessage, Outcome, Output, Progress

FRAME_BYTES = 1024 * 1024
"""A frame is filled up to about this size, far below `protocol.FRAME_LIMIT`."""

WAITING = 10_000
"""Messages that may wait; a dispatcher that lets more pile up does not read."""

OUTPUT_BYTES = 1024 * 1024
"""Bytes of output that may wait, of all attempts."""


class OutboxFull(Exception):
    """The dispatcher does not read."""


class Outbox:
    """The queue of one session."""

    def __init__(self) -> None:
        self._messages: deque[NodeMessage] = deque()
        self._progress: dict[Lease, Progress] = {}
        self._output: dict[Lease, Output] = {}
        self._output_bytes = 0
        self._ready = asyncio.Event()
        self._closed = False

    def put(self, message: NodeMessage) -> None:
        """Let a message wait for the next frame.

        Raises:
            OutboxFull: Too many wait.
        """
        if self._closed:
            return
        match message:
            case Progress(lease=lease):
                self._progress[lease] = message
            case Output():
                self._put_output(message)
            case Outcome(lease=lease) | GiveBack(lease=lease):
                # What was reported of an attempt goes before its end; after it, it would be stale.
                self._settle(lease)
                self._messages.append(message)
            case _:
                self._messages.append(message)
        self._ready.set()
        if len(self._messages) > WAITING:
            raise OutboxFull

    def close(self) -> None:
        """Take no more; `take` gives what waits, and then nothing."""
        self._closed = True
        self._ready.set()

    async def take(self) -> list[NodeMessage]:
        """Wait for messages and take as many as one frame should have; none, when the outbox is closed and empty."""
        await self._ready.wait()
        await asyncio.sleep(0)  # whatever becomes ready in this round of the loop comes along
        frame: list[NodeMessage] = []
        room = FRAME_BYTES
        while self._messages and (not frame or room >= _size(self._messages[0])):
            frame.append(self._messages.popleft())
            room -= _size(frame[-1])
        if not self._messages:
            while self._progress and room > 0:
                frame.append(self._progress.pop(next(iter(self._progress))))
                room -= _size(frame[-1])
            while self._output and room > 0:
                frame.append(self._take_output(next(iter(self._output))))
                room -= _size(frame[-1])
        if not (self._messages or self._progress or self._output or self._closed):
            self._ready.clear()
        return frame

    def _settle(self, lease: Lease) -> None:
        if lease in self._output:
            self._messages.append(self._take_output(lease))
        if lease in self._progress:
            self._messages.append(self._progress.pop(lease))

    def _put_output(self, message: Output) -> None:
        waiting = self._output.get(message.lease)
        size = _size(message)
        if self._output_bytes + size > OUTPUT_BYTES:
            return
        self._output_bytes += size
        if waiting is not None:
            message = msgspec.structs.replace(message, lines=[*waiting.lines, *message.lines])
        self._output[message.lease] = message

    def _take_output(self, lease: Lease) -> Output:
        output = self._output.pop(lease)
        self._output_bytes -= sum(len(line) + _LINE_HEAD for _, line in output.lines)
        return output


_HEAD = 256
_LINE_HEAD = 16


def _size(message: NodeMessage) -> int:
    """Give about the bytes that a message takes in a frame."""
    match message:
        case Outcome(body=body, log=log, headers=headers):
            fields = sum(len(name) + len(value) for name, value in headers)
            return _HEAD + len(body or b"") + len(log.head) + len(log.tail) + fields
        case Output(lines=lines):
            return sum(len(line) + _LINE_HEAD for _, line in lines)
        case _:
            return _HEAD
