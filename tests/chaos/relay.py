"""The network between an agent and its dispatcher: a TCP relay that can be cut, silenced, slowed and made lossy."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Literal

Way = Literal["up", "down"]
"""From the agent to the dispatcher, or back."""

RETRANSMIT_SECONDS = 0.2
"""What a lost segment costs a TCP connection, doubled each time that it is lost again."""

PIECE = 64 * 1024


class Relay:
    """A port in front of another one.

    Attributes:
        port: Where it listens; it stays the same for as long as the relay lives.
        delay: Seconds that each piece takes to cross.
        loss: Share of the pieces that are lost and sent again, as TCP does it.
    """

    def __init__(self, target: int, rng: random.Random) -> None:
        self.port = 0
        self.delay = 0.0
        self.loss = 0.0
        self._target = target
        self._rng = rng
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        self._refuses = False
        self._flows: dict[Way, asyncio.Event] = {"up": asyncio.Event(), "down": asyncio.Event()}
        self.heal()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening and reset every connection."""
        assert self._server is not None
        self._server.close()
        await self.reset()

    async def reset(self) -> None:
        """Reset every connection; new ones are taken."""
        for connection in list(self._open):
            connection.cancel()
        if self._open:
            await asyncio.wait(self._open)

    async def refuse(self) -> None:
        """Cut the line so that both sides notice: connections are reset, new ones are closed at once."""
        self._refuses = True
        await self.reset()

    def silence(self, *ways: Way) -> None:
        """Cut the line so that nobody notices: nothing crosses any more, and nothing is closed."""
        for way in ways or ("up", "down"):
            self._flows[way].clear()

    def heal(self) -> None:
        """End `refuse` and `silence`. What was held up crosses, as after a retransmission."""
        self._refuses = False
        for flow in self._flows.values():
            flow.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        far: asyncio.StreamWriter | None = None
        try:
            if self._refuses:
                return
            far_reader, far = await asyncio.open_connection("127.0.0.1", self._target)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry("up", reader, far))
                group.create_task(self._carry("down", far_reader, writer))
        except* (OSError, asyncio.CancelledError):
            pass  # whichever side ended it, both end
        finally:
            self._open.discard(task)
            for end in (writer, far):
                if end is not None:
                    end.transport.abort()

    async def _carry(self, way: Way, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        """Bring what comes from one side to the other, until one of them closes."""
        while piece := await source.read(PIECE):
            wait = self.delay
            again = RETRANSMIT_SECONDS
            while self._rng.random() < self.loss:
                wait += again
                again *= 2
            if wait:
                await asyncio.sleep(wait)
            await self._flows[way].wait()
            target.write(piece)
            await target.drain()
        await self._flows[way].wait()
        with suppress(OSError):
            target.write_eof()
