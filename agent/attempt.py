"""One attempt on this node: does what `task_state` says, and tells it what came of it.

Nothing here decides what happens next. Each thing that is done ends in an event, also when it fails.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog

from agent import task_state as ts
from agent.admission import Permit
from agent.bodies import Bodies, BodyUnavailable, Upload
from agent.invocation import GaveBack, Ran, Report
from agent.journal import Journal, JournalError, Kept
from agent.progress import ProgressReport
from agent.protocol import (
    Accept,
    Credit,
    CreditNotice,
    Decline,
    GiveBack,
    Held,
    Lease,
    NodeMessage,
    Offer,
    Outcome,
)
from agent.task_state import Life, State


class Work(Protocol):
    """What runs for an attempt: `agent.invocation.Invocation`."""

    async def run(self) -> Ran | GaveBack:
        """Run until the attempt has an ending."""

    def stop(self, reason: ts.StopReason) -> None:
        """End it soon; `run` returns."""


@dataclasses.dataclass(frozen=True, slots=True)
class Workplace:
    """What all attempts of a node work with.

    Attributes:
        send: Puts a message into the session; False where there is none.
        credit: Gives what is free now.
        begin: Makes the work of an offer with its input.
        spawn: Starts a task that is the node's to keep and to wait for.
        changed: Called with an attempt whose state changed.
        gave_back: Called with the reason when work ended without an outcome, before the dispatcher is told.
    """

    journal: Journal
    bodies: Bodies
    send: Callable[[NodeMessage], bool]
    credit: Callable[[], Credit]
    begin: Callable[[Offer, bytes | Path, Report], Work]
    spawn: Callable[[Coroutine[Any, Any, Any], str], asyncio.Task[Any]]
    changed: Callable[[Attempt], None]
    gave_back: Callable[[str], None]
    monotonic: Callable[[], float] = time.monotonic


class Attempt:
    """An attempt, from the offer, or from what an earlier run of the agent left of it, to its end."""

    def __init__(self, lease: Lease, life: Life, workplace: Workplace) -> None:
        self.lease = lease
        self.life = life
        self.since = workplace.monotonic()
        """When its state changed last."""
        self._workplace = workplace
        self._permit: Permit | None = None
        self._offer: Offer | None = None
        self._report: ProgressReport | None = None
        self._invocation: Work | None = None
        self._working: asyncio.Task[Ran | GaveBack] | None = None
        self._uploading: asyncio.Task[Upload] | None = None
        self._upload_began = 0.0
        self._outcome: Outcome | None = None
        self._body_path: Path | None = None
        self._give_back = ("", False)
        self._log = structlog.get_logger().bind(task=lease.task, attempt=lease.attempt)

    @classmethod
    def of_offer(cls, offer: Offer, permit: Permit, workplace: Workplace) -> Attempt:
        """Take an offer: the accept is written, and sent when it is on disk."""
        attempt = cls(offer.lease, Life(hold=offer.hold), workplace)
        attempt._offer = offer
        attempt._permit = permit
        attempt._report = ProgressReport(
            offer.lease, workplace.send, lambda phase: attempt.handle(ts.PhaseEntered(phase))
        )
        workplace.spawn(attempt._accept(offer), f"accept {offer.lease.task}")
        return attempt

    @classmethod
    def of_kept(cls, kept: Kept, workplace: Workplace) -> Attempt:
        """Take up what the journal holds: an outcome to deliver, or work that died with the agent."""
        if kept.outcome is None:
            attempt = cls(kept.lease, Life(State.GIVING_BACK), workplace)
            attempt._give_back = ("the agent was restarted", True)
            return attempt
        attempt = cls(kept.lease, Life(State.SPOOLED, upload=kept.body_path is not None), workplace)
        attempt._outcome = kept.outcome
        attempt._body_path = kept.body_path
        return attempt

    @property
    def has_ended(self) -> bool:
        """Nothing is left to do for it."""
        return self.life.state in ts.ENDED

    @property
    def is_working(self) -> bool:
        """Something runs for it."""
        return self.life.state in ts.WORKING or self.life.state in {State.ABORTING, State.ABANDONING}

    @property
    def is_held(self) -> bool:
        """The dispatcher counts on it: its lease is to be renewed."""
        return not self.has_ended and self.life.state is not State.ABANDONING

    @property
    def held(self) -> Held:
        """What a hello says of it."""
        return Held(self.lease, finished=self.life.state in {State.SPOOLING, State.UPLOADING, State.SPOOLED})

    def handle(self, event: ts.Event) -> None:
        """Take an event and do what follows from it."""
        before = self.life.state
        self.life, actions = ts.step(self.life, event)
        if self.life.state is not before:
            self.since = self._workplace.monotonic()
            self._log.debug("attempt went on", state=self.life.state, was=before)
        elif isinstance(event, ts.Overdue):
            self.since = self._workplace.monotonic()
        if isinstance(event, ts.SessionOpened) and self._report is not None and self.is_working:
            self._report.repeat()
        for action in actions:
            self._do(action)
        if self.life.state is not before:
            self._workplace.changed(self)

    def cancel_work(self) -> None:
        """End work that did not end when it was told to."""
        if self._working is not None:
            self._working.cancel()

    def cancel_upload(self) -> None:
        """End an upload; the outcome stays in the journal."""
        if self._uploading is not None:
            self._uploading.cancel()

    def _do(self, action: ts.Action) -> None:  # noqa: C901, PLR0912 - one line or two for each action
        send, credit = self._workplace.send, self._workplace.credit
        match action:
            case ts.SendAccept():
                send(Accept(self.lease, credit()))
            case ts.SendDecline(reason):
                send(Decline(self.lease, reason, credit()))
            case ts.StartWork():
                self._working = self._workplace.spawn(self._work(), f"work {self.lease.task}")
                self._working.add_done_callback(self._work_ended)
            case ts.StopWork(reason):
                self._stop_work(reason)
            case ts.ReleasePermit():
                if self._permit is not None:
                    self._permit.release()
            case ts.SpoolOutcome():
                self._workplace.spawn(self._spool(), f"spool {self.lease.task}")
            case ts.StartUpload():
                send(CreditNotice(credit()))  # the outcome, which would say it, comes after the upload
                self._start_upload()
            case ts.StopUpload():
                self.cancel_upload()
            case ts.SendOutcome():
                self._send_outcome()
            case ts.KeepGiveBack(reason, started):
                self._give_back = (reason, started)
                self._workplace.gave_back(reason)
                self._log.warning("attempt given back", reason=reason, started=started)
            case ts.SendGiveBack():
                self._close_report()
                if send(GiveBack(self.lease, *self._give_back, credit=credit())):
                    self.handle(ts.GiveBackSent())
            case ts.Forget():
                self._close_report()
                if self.life.state is State.ABANDONED:
                    send(CreditNotice(credit()))
                self._workplace.spawn(self._forget(), f"forget {self.lease.task}")

    async def _accept(self, offer: Offer) -> None:
        try:
            await self._workplace.journal.accept(offer)
        except JournalError as error:
            self._log.warning("offer not taken", reason=str(error))
            self.handle(ts.AcceptNotWritten(str(error)))
        else:
            self.handle(ts.AcceptWritten())

    # Work

    async def _work(self) -> Ran | GaveBack:
        offer, report = self._offer, self._report
        assert offer is not None  # noqa: S101 - only an offer comes here
        assert report is not None  # noqa: S101
        structlog.contextvars.bind_contextvars(task=self.lease.task, attempt=self.lease.attempt)
        if offer.body is not None:
            self._invocation = self._workplace.begin(offer, offer.body, report)
            return await self._invocation.run()
        file = self._workplace.journal.bodies / f"{self.lease.task}.{self.lease.token.hex()}.input"
        try:
            await self._workplace.bodies.fetch(self.lease, offer.body_size, file)
            self._invocation = self._workplace.begin(offer, file, report)
            return await self._invocation.run()
        except BodyUnavailable as error:
            return GaveBack(str(error), started=False)
        finally:
            await asyncio.to_thread(file.unlink, missing_ok=True)

    def _stop_work(self, reason: ts.StopReason) -> None:
        self._log.info("attempt is stopped", reason=reason)
        if self._invocation is not None:
            self._invocation.stop(reason)
        else:
            self.cancel_work()

    def _work_ended(self, task: asyncio.Task[Ran | GaveBack]) -> None:
        began = self._invocation is not None
        self._invocation = self._working = None
        if task.cancelled():
            self.handle(ts.WorkGaveBack("drained", started=began))
        elif (error := task.exception()) is not None:
            self._log.error("attempt failed in the agent", exc_info=error)
            self.handle(ts.WorkGaveBack("the agent failed", started=began))
        elif isinstance(ended := task.result(), Ran):
            self._outcome, self._body_path = ended.outcome, ended.body_path
            self._log.info(
                "attempt ended",
                ending=ended.outcome.ending,
                status=ended.outcome.status,
                detail=ended.outcome.detail or None,
                running_ms=round(ended.outcome.spans.running, 1),
            )
            self.handle(ts.WorkRan(upload=ended.body_path is not None))
        else:
            self.handle(ts.WorkGaveBack(ended.reason, ended.started))

    # Delivery

    async def _spool(self) -> None:
        assert self._outcome is not None  # noqa: S101 - `WorkRan` comes with one
        try:
            await self._workplace.journal.finish(self._outcome, self._body_path)
        except JournalError as error:
            # It is sent all the same: what is lost is only that it would survive a crash of the agent.
            self._log.error("outcome is not on disk", problem=str(error))
        self.handle(ts.Spooled())

    def _start_upload(self) -> None:
        assert self._body_path is not None  # noqa: S101 - `Life.upload` says so
        self._upload_began = self._workplace.monotonic()
        if self._report is not None:
            self._report.phase("uploading")
        upload = self._workplace.bodies.upload(self.lease, self._body_path)
        self._uploading = self._workplace.spawn(upload, f"upload {self.lease.task}")
        self._uploading.add_done_callback(self._upload_ended)

    def _upload_ended(self, task: asyncio.Task[Upload]) -> None:
        self._uploading = None
        if task.cancelled():
            self.handle(ts.UploadPostponed())
            return
        if (error := task.exception()) is not None:
            self._log.error("result cannot be uploaded", exc_info=error)
            self.handle(ts.UploadRefused())
            return
        assert self._outcome is not None  # noqa: S101 - it was spooled
        match task.result():
            case Upload.TAKEN:
                took = (self._workplace.monotonic() - self._upload_began) * 1000
                spans = self._outcome.spans
                spans = msgspec.structs.replace(spans, uploading=round(spans.uploading + took, 3))
                self._outcome = msgspec.structs.replace(self._outcome, spans=spans)
                self.handle(ts.Uploaded())
            case Upload.TOO_LARGE:
                self._outcome = msgspec.structs.replace(
                    self._outcome,
                    ending="result_too_large",
                    status=0,
                    headers=[],
                    body=b"",
                    body_size=0,
                    body_sha256="",
                    detail=f"the answer of {self._outcome.body_size} bytes is over the dispatcher's limit",
                )
                self.handle(ts.Uploaded())
            case Upload.STALE:
                self._log.warning("result refused, it is dropped")
                self.handle(ts.UploadRefused())
            case Upload.NOT_NOW:
                self.handle(ts.UploadPostponed())

    def _send_outcome(self) -> None:
        assert self._outcome is not None  # noqa: S101 - it was spooled
        self._close_report()
        self._workplace.send(msgspec.structs.replace(self._outcome, credit=self._workplace.credit()))

    def _close_report(self) -> None:
        if self._report is not None:
            self._report.close()
            self._report = None

    async def _forget(self) -> None:
        try:
            await self._workplace.journal.forget(self.lease)
        except JournalError as error:
            self._log.warning("attempt stays in the journal", problem=str(error))
            return
        if self._body_path is not None:
            await asyncio.to_thread(self._body_path.unlink, missing_ok=True)
