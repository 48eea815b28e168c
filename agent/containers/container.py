"""One container of ours from its creation on: its streams, its door, its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum

import structlog

from agent.containers.engine import Attachment, Engine, EngineError, EngineUnavailable, Inspection, NotFound
from agent.containers.oom import OomCounter
from agent.containers.output import Demultiplexer, Stream
from agent.containers.reach import Door
from agent.containers.spec import ContainerSpec

log = structlog.get_logger()

Sink = Callable[[Stream, bytes], Awaitable[None]]

ENGINE_PATIENCE = 30.0
"""Seconds that the engine may be away before a container whose stream ended counts as lost."""

SETTLE_SECONDS = 0.003
"""After so long without output, what the function wrote before its answer has arrived."""

SETTLE_AT_MOST = 0.05

_READ = 64 * 1024
_FIRST_LOOK = 0.005
_SLOWEST_LOOK = 1.0


class State(StrEnum):
    """What a container does for us.

    It is handed out and taken back without waiting between the look and the change; pause, unpause and
    removal, which wait for the engine, hold `Container.lock` and look at the state under it.
    """

    STARTING = "starting"
    BUSY = "busy"
    IDLE = "idle"
    PAUSED = "paused"
    GONE = "gone"


class Container:
    """A container that was made for a function.

    Attributes:
        state: What it does for us.
        ended: Set when it has ended, or when nothing can be known of it any more.
        last: How it ended; None where it was gone before we could look.
        lost: The engine stayed away for `ENGINE_PATIENCE`; nothing is known.
        disturbed: The engine was away for a while, and output may be missing.
        signals: How many signals we sent it.
        idle_since: Monotonic time at which it became idle.
    """

    def __init__(
        self, engine: Engine, name: str, spec: ContainerSpec, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self.spec = spec
        self.lock = asyncio.Lock()
        self.state = State.STARTING
        self.ended = asyncio.Event()
        self.last: Inspection | None = None
        self.lost = False
        self.disturbed = False
        self.signals = 0
        self.idle_since = 0.0
        self.door: Door | None = None
        self.oom = OomCounter(None)
        self.attachment: Attachment | None = None
        self._engine = engine
        self._monotonic = monotonic
        self._sink: Sink | None = None
        self._listener: asyncio.Task[None] | None = None
        self._wrote_at: float | None = None

    def listen(self, attachment: Attachment, when_ended: Callable[[Container], None]) -> None:
        """Read the streams from now on, and notice the end."""
        self.attachment = attachment
        self._listener = asyncio.create_task(self._listen(attachment, when_ended), name=f"listen {self.name}")

    def send_output(self, sink: Sink | None) -> None:
        """Say where output goes from now on; None: nowhere."""
        self._sink = sink

    async def settle(self, first: bool) -> None:
        """Wait until what the function wrote before its answer has most likely arrived.

        Output takes another way than the answer, through the engine. A function that has written nothing
        by the end of its first task is a silent one, and is not waited for after later ones.

        Args:
            first: This was the container's first task.
        """
        if self._wrote_at is None and not first:
            return
        begun = self._monotonic()
        while (now := self._monotonic()) - begun < SETTLE_AT_MOST:
            quiet = now - max(self._wrote_at or begun, begun)
            if quiet >= SETTLE_SECONDS:
                return
            await asyncio.sleep(SETTLE_SECONDS - quiet)

    async def signal(self, name: str) -> None:
        """Send a signal to the function."""
        self.signals += 1
        await self._engine.kill(self.name, name)

    async def close(self) -> None:
        """Let go of its streams and its door."""
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
        if self.attachment is not None:
            self.attachment.close()
        if self.door is not None:
            self.door.close()

    async def _listen(self, attachment: Attachment, when_ended: Callable[[Container], None]) -> None:
        frames = Demultiplexer()
        try:
            while piece := await attachment.reader.read(_READ):
                self._wrote_at = self._monotonic()
                for stream, payload in frames.feed(piece):
                    if self._sink is not None:
                        await self._sink(stream, payload)
        except OSError as error:
            log.debug("stream broke", container=self.name, reason=str(error))
        await self._look_for_the_end()
        self.ended.set()
        when_ended(self)

    async def _look_for_the_end(self) -> None:
        """Wait for the end, of which the end of the stream is only a sign.

        A function may close its streams and go on, and an engine that starts anew closes all streams.
        """
        wait = _FIRST_LOOK
        last_heard = self._monotonic()
        while True:
            try:
                self.last = await self._engine.inspect(self.name)
                last_heard = self._monotonic()
                if not self.last.running:
                    return
            except NotFound:
                self.last = None
                return
            except (EngineError, EngineUnavailable) as error:
                self.disturbed = True
                if self._monotonic() - last_heard > ENGINE_PATIENCE:
                    self.lost = True
                    log.warning("container lost sight of", container=self.name, reason=str(error))
                    return
            await asyncio.sleep(wait)
            wait = min(wait * 2, _SLOWEST_LOOK)
