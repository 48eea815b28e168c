"""One container of ours from its creation on: its streams, its door, its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum

import structlog

from agent.containers.connection import Connections
from agent.containers.cpu_use import CpuUse
from agent.containers.engine import Attachment, Engine, EngineError, EngineUnavailable, Inspection, NotFound
from agent.containers.oom import OomCounter
from agent.containers.output import Stream
from agent.containers.reach import Door
from agent.containers.spec import ContainerSpec
from agent.containers.streams import Attached, FromLog, Heard, OutputLost, Source

log = structlog.get_logger()

Sink = Callable[[Stream, bytes], Awaitable[None]]
StartOver = Callable[[], Awaitable[None]]

ENGINE_PATIENCE = 90.0
"""Seconds that the engine may be away before a container whose stream ended counts as lost."""

SLOW_SECONDS = 1.0
"""An engine that takes longer to answer was away: where systemd holds its socket, calls wait for its return."""

SETTLE_SECONDS = 0.003
"""After so long without output, what the function wrote before its answer has arrived, if some of it has."""

SETTLE_AT_MOST = 0.05
"""So long its output is waited for in all, and so long where it wrote in its last call and nothing has come of this."""

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
        in_sight: Not set while its streams are broken and the engine does not say how it stands.
        last: How it ended; None where it was gone before we could look.
        lost: What it did cannot be known any more: the engine stayed away for `ENGINE_PATIENCE`, or came back
            without what a job wrote, or may have kept a part of a job's input to itself.
        disturbed: It ended while the engine was away, which may be what ended it.
        fed: A job has its whole input, even if the engine ends.
        borrowers: Tasks that it is lent to.
        ready: It has taken a request.
        frozen: It stands still while it is lent: see `Pool.freeze`.
        leaving: It is lent to nobody any more, and removed when the last of its tasks is over.
        cpu: How much CPU time it has used; None before it was started.
        connections: Those to its door that are open.
        when_over: Called when `ended` is set.
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
        self.in_sight = asyncio.Event()
        self.in_sight.set()
        self.last: Inspection | None = None
        self.lost = False
        self.disturbed = False
        self.fed = False
        self.borrowers = 0
        self.ready = False
        self.frozen = False
        self.leaving = False
        self.signals = 0
        self.idle_since = 0.0
        self.door: Door | None = None
        self.connections: Connections | None = None
        self.when_over: set[Callable[[], None]] = set()
        self.oom = OomCounter(None)
        self.cpu: CpuUse | None = None
        self.attachment: Attachment | None = None
        self._engine = engine
        self._monotonic = monotonic
        self._sinks: tuple[Sink, ...] = ()
        self._start_over: StartOver | None = None
        self._listener: asyncio.Task[None] | None = None
        self._wrote_at: float | None = None
        self._called_at = 0.0
        self._settled = False
        self._wrote_last_time = False
        self._heard = Heard()

    def listen(self, attachment: Attachment, when_ended: Callable[[Container], None]) -> None:
        """Read the streams from now on, and notice the end."""
        self.attachment = attachment
        self._listen_to(Attached(attachment), when_ended)

    def listen_to_log(self, when_ended: Callable[[Container], None]) -> None:
        """Read what a job has written so far and writes from now on, and notice the end."""
        self._listen_to(None, when_ended)

    def send_output(self, sink: Sink, start_over: StartOver | None = None) -> None:
        """Let output go there too from now on: of tasks that share a container, each gets all of it.

        Args:
            start_over: Awaited before all output of a job comes from its beginning again.
        """
        if sink not in self._sinks:
            self._sinks += (sink,)
        self._start_over = start_over

    def stop_output(self, sink: Sink | None = None) -> None:
        """Let output go there no more; None: nowhere at all."""
        self._sinks = tuple(other for other in self._sinks if sink is not None and other is not sink)

    def has_room(self, concurrency: int) -> bool:
        """Say whether it can be lent to one task more while it works for others."""
        sound = not (self.leaving or self.signals or self.ended.is_set())
        return sound and self.ready and self.state is State.BUSY and self.borrowers < concurrency

    def expect_output(self) -> None:
        """Wait for output after each call: what the function wrote in an earlier run of the agent is not known."""
        self._wrote_at = self._monotonic()

    def begin_call(self) -> None:
        """Take what is written from now on for the output of a call."""
        self._called_at = self._monotonic()

    async def settle(self) -> None:
        """Wait until what the function wrote before its answer has most likely arrived.

        Output takes another way than the answer, through the engine, and on a busy machine a longer one. A function
        that has written nothing by the end of its first task is a silent one, and is not waited for after later ones.
        """
        first, self._settled = not self._settled, True
        if self._wrote_at is None and not first:
            return
        begun = self._monotonic()
        while (now := self._monotonic()) - begun < SETTLE_AT_MOST:
            quiet = now - max(self._wrote_at or begun, begun)
            if quiet >= SETTLE_SECONDS and (self._wrote_in_call or not self._wrote_last_time):
                break
            await asyncio.sleep(max(SETTLE_SECONDS - quiet, SETTLE_SECONDS / 3))
        self._wrote_last_time = self._wrote_in_call

    @property
    def _wrote_in_call(self) -> bool:
        return self._wrote_at is not None and self._wrote_at >= self._called_at

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
        if self.connections is not None:
            self.connections.close()
        if self.door is not None:
            self.door.close()
        self.oom.close()

    def _listen_to(self, source: Source | None, when_ended: Callable[[Container], None]) -> None:
        self._listener = asyncio.create_task(self._listen(source, when_ended), name=f"listen {self.name}")

    async def _listen(self, source: Source | None, when_ended: Callable[[Container], None]) -> None:
        """Read what the container writes until it has ended.

        The end of a source is only a sign: a function may close its streams and go on, and an engine that is
        started anew closes all streams. When it is back, a server is attached to anew. Of a job no byte may be
        missing, and so everything is read from its log: as it grows, and once more when it is complete.

        Args:
            source: None: there is none yet.
        """
        job, whole = self.spec.mode == "job", source is not None
        while True:
            if source is not None:
                await self._read(source)
            self.in_sight.clear()
            away = await self._look(until_seen=source is None)
            if self.lost or self.last is None:
                break
            self.disturbed = self.disturbed or (away and not self.last.running)
            whole = whole and not away
            if not self.last.running and (whole or not job):
                break
            if away and job and not self.fed:
                self.lost = True
                break
            source = await self._open_again(follow=self.last.running)
            if source is not None:
                self.in_sight.set()
            whole = job and source is not None and not self.last.running
        if self._heard.lacks:
            log.warning("output lost", container=self.name, reason="the log is shorter than what was heard")
            self.lost = True
        self.ended.set()
        self.in_sight.set()
        for tell in list(self.when_over):
            tell()
        when_ended(self)

    async def _read(self, source: Source) -> None:
        try:
            while output := await source.read():
                self._wrote_at = self._monotonic()
                for stream, payload in output:
                    if self.spec.mode == "job" and stream == "stdout":
                        self._heard.feed(payload)
                    for sink in self._sinks:
                        await sink(stream, payload)
        except (OSError, EngineUnavailable) as error:
            log.debug("stream broke", container=self.name, reason=str(error))
        except OutputLost as error:
            log.warning("output lost", container=self.name, reason=str(error))
            self.lost = True
        finally:
            await source.close()

    async def _look(self, until_seen: bool) -> bool:
        """Wait for the end, or until an engine that was away is back; say whether it was away.

        Args:
            until_seen: Wait no longer than until the engine says how the container stands.
        """
        wait, away = _FIRST_LOOK, False
        last_heard = self._monotonic()
        while not self.lost:
            asked = self._monotonic()
            try:
                self.last = await self._engine.inspect(self.name)
                last_heard = self._monotonic()
                away = away or (last_heard - asked > SLOW_SECONDS and not await self._engine.remembers(self.last.id))
                if away or until_seen or not self.last.running:
                    break
                self.in_sight.set()
            except NotFound:
                self.last = None
                break
            except (EngineError, EngineUnavailable) as error:
                away = True
                self.in_sight.clear()
                if self._monotonic() - last_heard > ENGINE_PATIENCE:
                    self.lost = True
                    log.warning("container lost sight of", container=self.name, reason=str(error))
            await asyncio.sleep(wait)
            wait = min(wait * 2, _SLOWEST_LOOK)
        return away

    async def _open_again(self, follow: bool) -> Source | None:
        """Take hold of the output anew; None where that did not work this time.

        Args:
            follow: The container runs.
        """
        try:
            if self.spec.mode == "job":
                logged = FromLog(await self._engine.logged(self.name, follow), complete=not follow)
                self._heard.start_over()
                if self._start_over is not None:
                    await self._start_over()
                return logged
            self.attachment = await self._engine.attach(self.name)
            if not (await self._engine.inspect(self.name)).running:
                return None  # a stream of what has ended already would never end
        except EngineUnavailable as error:
            log.info("output not attached again", container=self.name, reason=str(error))
            await asyncio.sleep(_SLOWEST_LOOK)
            return None
        except EngineError as error:
            # It is gone, or it is paused; such a one is not worth waiting for.
            log.info("output not attached again", container=self.name, reason=error.message)
            self.lost = True
            return None
        return Attached(self.attachment)
