"""What every attempt has in common: its phases and their times, its log, its answer, its outcome."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import structlog
from msgspec import Struct

from agent.containers.answer import AnswerBody
from agent.containers.container import Container, Sink
from agent.containers.engine import EngineError, EngineUnavailable, Image
from agent.containers.evidence import Death
from agent.containers.host import ContainerHost
from agent.containers.images import NoDisk
from agent.containers.output import Capture, Stream
from agent.containers.pool import NotStarted
from agent.protocol import Ending, Headers, Offer, Outcome, Phase, Spans

log = structlog.get_logger()

_CANNOT_RUN = re.compile(
    r"executable file not found|no command specified|exec format error"
    r"|exec.*(?:no such file|is a directory|permission denied)"
    r"|unable to find user|unable to find group|no matching entries in passwd",
    re.IGNORECASE | re.DOTALL,
)
"""Refusals of the engine to start a container that are the image's doing."""


class Report(Protocol):
    """Hears how an attempt goes. No method waits for anything."""

    def phase(self, phase: Phase) -> None:
        """A phase begins."""

    def pulled(self, done: int, total: int) -> None:
        """So many bytes of the image are here, of so many."""

    def percent(self, percent: int, message: str) -> None:
        """The function says how far it is."""

    def line(self, stream: Stream, line: bytes) -> None:
        """The function wrote a line."""


class Ran(Struct, frozen=True):
    """The attempt has an outcome.

    Attributes:
        outcome: What goes to the dispatcher. Its body is None where the body is in a file.
        body_path: That file, which belongs to the caller from now on.
    """

    outcome: Outcome
    body_path: Path | None = None


class GaveBack(Struct, frozen=True):
    """The attempt ended without an outcome.

    Attributes:
        reason: One word, such as ``drained`` or ``engine_lost``.
        started: The function may have seen the request.
    """

    reason: str
    started: bool


class CannotRun(Exception):
    """The engine will not run the image's command; the text says why."""


class ConnectionLost(Exception):
    """A server closed a connection as a request came: whether it saw it nobody knows, and it is not to blame."""


class Execution:
    """One attempt of one task while it is under way.

    Attributes:
        container: The container that works for it now.
        cold: A container was started for it.
        started: The function may have seen the request.
    """

    def __init__(
        self,
        offer: Offer,
        body: bytes | Path,
        host: ContainerHost,
        report: Report,
        answer: AnswerBody,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.offer = offer
        self.revision = offer.revision
        self.lease = offer.lease
        self.input = body
        self.host = host
        self.answer = answer
        self.capture = Capture(report.percent, report.line, log_bytes=host.config.log_bytes)
        self.container: Container | None = None
        self._starting: asyncio.Task[Container] | None = None
        self.cold = False
        self.started = False
        self.wall = wall
        self.monotonic = monotonic
        self._report = report
        self._phase: Phase | None = None
        self._phase_begun = 0.0
        self._spent: dict[Phase, float] = {}

    def enter(self, phase: Phase) -> None:
        """Begin a phase, and end the one before."""
        self._leave()
        self._phase, self._phase_begun = phase, self._now()
        self._report.phase(phase)

    def add_to_phase(self, seconds: float) -> None:
        """Count time of the phase that passed before it was entered here."""
        self._phase_begun -= seconds

    async def image(self) -> Image:
        """Give the function's image, pulled if need be.

        Raises:
            ImageUnavailable: It cannot be had.
        """
        return await self.host.image_store.ensure(
            self.revision.image, lambda: self.enter("pulling"), self._report.pulled, self.revision.pull
        )

    async def start_container(self, image: Image, env: dict[str, str], sink: Sink) -> Container:
        """Start a container for this attempt.

        Raises:
            CannotRun: The image names nothing that can be run.
            NoDisk: The engine's disk is full.
        """
        self.enter("starting")
        self.cold = True
        try:
            self._starting = asyncio.create_task(self.host.start_container(self.offer, image, env, sink))
            self.container = await self._starting
        except NotStarted:
            self.started = False
            raise
        except EngineError as error:
            self.started = False
            if "no space left on device" in error.message:
                log.warning("container not made", task=self.lease.task, reason=error.message)
                raise NoDisk("the disk has no room for a container") from None
            if _CANNOT_RUN.search(error.message):
                # The engine's words name paths of this machine; the log has them.
                log.info("image cannot be run", task=self.lease.task, reason=error.message)
                raise CannotRun("the image's command, or its user, cannot be used to start it") from None
            raise
        return self.container

    @property
    def grace(self) -> float:
        """Seconds between the signal to the function and its kill."""
        return min(float(self.revision.grace), self.host.config.stop_grace_max)

    def time_left(self) -> float | None:
        """Seconds until the function has to have ended, with the grace after its timeout; None: it does not run yet.

        Where containers stand still, so does this.
        """
        if self._phase == "uploading":
            return 0.0
        if self._phase != "running":
            return None
        return max(0.0, self.revision.timeout + self.grace - (self._now() - self._phase_begun))

    async def signal_end(self) -> bool:
        """Tell the function to end; False where nobody would hear it, or others would.

        It has no container yet, or shares it with tasks that go on, or stands still.
        """
        if self.container is None and self._starting is not None and self.revision.mode == "job":
            # It may be at work before the engine has answered all that it is asked about a start.
            await asyncio.wait({self._starting}, timeout=self.grace)
        if self.container is None or self.container.borrowers > 1 or self.host.freezer.frozen:
            return False
        if not self.container.ended.is_set():
            try:
                await self.host.pool.signal(self.container, "SIGTERM")
            except EngineUnavailable as error:
                log.warning("function not signalled", task=self.lease.task, reason=str(error))
        return True

    async def timed_out(self, detail: str) -> Ran:
        """Tell a function whose time is up to end, and give the outcome when it has, or when its grace is over.

        What it writes meanwhile is in its log; an answer would be too late.
        """
        if await self.signal_end() and self.container is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.grace):
                    await self.container.ended.wait()
        return self.ended("timeout", detail)

    def ended(self, ending: Ending, detail: str, exit_code: int | None = None) -> Ran:
        """Give the outcome of an attempt without an answer."""
        return Ran(self._outcome(ending, detail=detail, exit_code=exit_code))

    def died(self, death: Death, when: str = "") -> Ran:
        """Give the outcome of an attempt whose container ended."""
        return self.ended(death.ending, death.detail + when, death.exit_code)

    async def answered(self, status: int, headers: Headers, exit_code: int | None = None, detail: str = "") -> Ran:
        """Give the outcome of an attempt with an answer."""
        self.enter("uploading")
        body, path = await self.answer.close()
        outcome = self._outcome(
            "answered",
            detail=detail,
            exit_code=exit_code,
            status=status,
            headers=headers,
            body=body,
            size=self.answer.size,
        )
        return Ran(outcome, path)

    def _outcome(
        self,
        ending: Ending,
        *,
        detail: str,
        exit_code: int | None,
        status: int = 0,
        headers: Headers | None = None,
        body: bytes | None = b"",
        size: int = 0,
    ) -> Outcome:
        self._leave()
        return Outcome(
            lease=self.lease,
            ending=ending,
            status=status,
            headers=headers or [],
            body=body,
            body_size=size,
            body_sha256=self.answer.sha256 if ending == "answered" else "",
            detail=detail,
            exit_code=exit_code,
            cold=self.cold,
            spans=Spans(**{phase: round(seconds * 1000, 3) for phase, seconds in self._spent.items()}),
            log=self.capture.close(),
        )

    def _now(self) -> float:
        """Give the time without that in which containers stood still: it is not the function's."""
        return self.monotonic() - self.host.freezer.seconds

    def _leave(self) -> None:
        if self._phase is not None:
            spent = self._now() - self._phase_begun
            self._spent[self._phase] = self._spent.get(self._phase, 0.0) + spent
            self._phase = None
