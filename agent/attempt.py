"""One attempt on this node: does what `task_state` says, and tells it what came of it.

Nothing here decides what happens next. Each thing that is done ends in an event, also when it fails.
"""

from __future__ import annotations

import asyncio

import msgspec
import structlog
from structlog.typing import FilteringBoundLogger

from agent import task_state as ts
from agent.admission import Permit
from agent.bodies import BodyUnavailable
from agent.delivery import Delivery
from agent.invocation import GaveBack, Ran
from agent.journal import JournalError, Kept
from agent.progress import ProgressReport
from agent.protocol import Accept, CreditNotice, Decline, GiveBack, Held, Lease, Offer
from agent.status import AttemptStatus
from agent.task_state import Life, State
from agent.workplace import Work, Workplace

log = structlog.get_logger()

RESTARTED = "the agent was restarted"

LASTING_SECONDS = 0.05
"""After so long the journal hears of a short attempt."""


class Attempt:
    """An attempt, from the offer, or from what an earlier run of the agent left of it, to its end."""

    def __init__(self, lease: Lease, life: Life, workplace: Workplace) -> None:
        self.lease = lease
        self.life = life
        self.since = workplace.monotonic()
        """When its state changed last."""
        self._workplace = workplace
        self.offer: Offer | None = None
        """What is to be done; None where an earlier run of the agent did it."""
        self.report: ProgressReport | None = None
        """How far the work is, until its end is told."""
        self._permit: Permit | None = None
        self._readopted = False
        self._invocation: Work | None = None
        self._working: asyncio.Task[Ran | GaveBack] | None = None
        self._delivery: Delivery | None = None
        self._give_back = ("", False)
        self._lasting: asyncio.TimerHandle | None = None

    @classmethod
    def of_offer(cls, offer: Offer, permit: Permit, workplace: Workplace) -> Attempt:
        """Take an offer: the accept is written, and sent when it is on disk."""
        life = Life(State.ACCEPTED, unwritten=True) if offer.short else Life(hold=offer.hold)
        attempt = cls(offer.lease, life, workplace)
        attempt._take(offer, permit)
        if offer.short:
            loop = asyncio.get_running_loop()
            attempt._lasting = loop.call_later(LASTING_SECONDS, attempt.handle, ts.Lasting())
            attempt._do(ts.StartWork())
        else:
            attempt._do(ts.WriteAccept())
        return attempt

    @classmethod
    def of_interrupted(cls, offer: Offer, permit: Permit, workplace: Workplace) -> Attempt:
        """Take up what ran when an earlier run of the agent ended: `Readopted` or `NotReadopted` says what becomes."""
        attempt = cls(offer.lease, Life(State.INTERRUPTED), workplace)
        attempt._take(offer, permit)
        attempt._readopted = True
        return attempt

    @classmethod
    def of_kept(cls, kept: Kept, workplace: Workplace) -> Attempt:
        """Take up what the journal holds: an outcome to deliver, or work that died with the agent."""
        if kept.outcome is None:
            attempt = cls(kept.lease, Life(State.GIVING_BACK), workplace)
            attempt._give_back = (RESTARTED, True)
            return attempt
        attempt = cls(kept.lease, Life(State.SPOOLED, upload=kept.body_path is not None), workplace)
        attempt._delivery = Delivery(kept.outcome, kept.body_path, workplace, attempt.handle)
        return attempt

    def _take(self, offer: Offer, permit: Permit) -> None:
        self.offer = offer
        self._permit = permit
        self.report = ProgressReport(
            offer.lease, self._workplace.send, lambda phase: self.handle(ts.PhaseEntered(phase))
        )

    @property
    def _log(self) -> FilteringBoundLogger:
        """A logger that names the attempt; most attempts end without a word."""
        bound: FilteringBoundLogger = log.bind(task=self.lease.task, attempt=self.lease.attempt)
        return bound

    @property
    def has_ended(self) -> bool:
        """Nothing is left to do for it."""
        return self.life.state in ts.ENDED

    @property
    def is_working(self) -> bool:
        """Something runs for it."""
        return self.life.state in ts.WORKING | ts.STOPPING

    @property
    def may_be_aborted(self) -> bool:
        """It has no ending yet that an abort would come too late for."""
        return self.life.state in ts.BEGINNING or self.is_working

    @property
    def time_left(self) -> float | None:
        """Seconds that its work may still take at most; None: nobody can tell yet."""
        return self._invocation.time_left() if self._invocation is not None else None

    @property
    def is_held(self) -> bool:
        """The dispatcher counts on it: its lease is to be renewed."""
        return not self.has_ended and self.life.state is not State.ABANDONING

    @property
    def is_kept(self) -> bool:
        """It only waits for the dispatcher to hear of it."""
        return self.life.state in {State.UPLOADING, State.SPOOLED, State.GIVING_BACK}

    @property
    def status(self) -> AttemptStatus:
        """What people are told of it."""
        progress, pulled, message = self.report.shown if self.report is not None else (None, None, "")
        left = self.time_left
        return AttemptStatus(
            self.lease.task,
            self.lease.attempt,
            self.offer.revision.function if self.offer is not None else "",
            self.life.state,
            progress,
            pulled,
            round(left, 1) if left is not None else None,
            message,
            round(self._workplace.monotonic() - self.since, 1),
        )

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
            log.debug("attempt went on", task=self.lease.task, state=self.life.state, was=before)
        elif isinstance(event, ts.Overdue):
            self.since = self._workplace.monotonic()
        if isinstance(event, ts.SessionOpened) and self.report is not None and self.is_working:
            self.report.repeat()
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
        if self._delivery is not None:
            self._delivery.cancel_upload()

    def _do(self, action: ts.Action) -> None:  # noqa: C901, PLR0912 - one line or two for each action
        send, credit = self._workplace.send, self._workplace.credit
        match action:
            case ts.WriteAccept():
                assert self.offer is not None  # noqa: S101 - only an offer is accepted
                self._workplace.spawn(self._accept(self.offer), f"accept {self.lease.task}")
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
                self._workplace.spawn(self._outcome.spool(), f"spool {self.lease.task}")
            case ts.StartUpload():
                send(CreditNotice(credit()))  # the outcome, which would say it, comes after the upload
                if self.report is not None:
                    self.report.phase("uploading")
                self._outcome.start_upload()
            case ts.StopUpload():
                self.cancel_upload()
            case ts.SendOutcome():
                self._close_report()
                if not self._outcome.send():
                    self.handle(ts.Lasting())
            case ts.KeepGiveBack(reason, started):
                self._give_back = (reason, started)
                self._workplace.metrics.gave_back(reason)
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
                if self._lasting is not None:
                    self._lasting.cancel()
                if not self.life.unwritten:
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
        offer, report = self.offer, self.report
        assert offer is not None  # noqa: S101 - only an offer comes here
        assert report is not None  # noqa: S101
        structlog.contextvars.bind_contextvars(task=self.lease.task, attempt=self.lease.attempt)
        if offer.body is not None or self._readopted:
            self._invocation = self._workplace.begin(offer, offer.body or b"", report, readopt=self._readopted)
            return await self._invocation.run()
        file = self._workplace.journal.bodies / f"{self.lease.task}.{self.lease.token.hex()}.input"
        try:
            await self._workplace.bodies.fetch(self.lease, offer.body_size, file)
            self._invocation = self._workplace.begin(offer, file, report, readopt=False)
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
        began = self._invocation is not None or self._readopted
        self._invocation = self._working = None
        if self.offer is not None:
            self.offer = msgspec.structs.replace(self.offer, body=None)  # nobody needs it in memory any more
        if task.cancelled():
            self.handle(ts.WorkGaveBack("drained", started=began))
        elif (error := task.exception()) is not None:
            self._log.error("attempt failed in the agent", exc_info=error)
            self.handle(ts.WorkGaveBack("the agent failed", started=began))
        elif isinstance(ended := task.result(), Ran):
            self._delivery = Delivery(ended.outcome, ended.body_path, self._workplace, self.handle)
            self._workplace.metrics.ran(ended.outcome)
            # Most of them are answers, of which the dispatcher keeps all that this says.
            (log.debug if ended.outcome.ending == "answered" else log.info)(
                "attempt ended",
                task=self.lease.task,
                attempt=self.lease.attempt,
                ending=ended.outcome.ending,
                status=ended.outcome.status,
                detail=ended.outcome.detail or None,
                running_ms=round(ended.outcome.spans.running, 1),
            )
            self.handle(ts.WorkRan(upload=ended.body_path is not None))
        else:
            self.handle(ts.WorkGaveBack(ended.reason, ended.started or self._readopted))

    # Its end

    @property
    def _outcome(self) -> Delivery:
        assert self._delivery is not None  # noqa: S101 - `WorkRan` comes with one, and so does `State.SPOOLED`
        return self._delivery

    def _close_report(self) -> None:
        if self.report is not None:
            self.report.close()
            self.report = None

    async def _forget(self) -> None:
        try:
            await self._workplace.journal.forget(self.lease)
        except JournalError as error:
            self._log.warning("attempt stays in the journal for now", problem=str(error))
        # Also then: nobody needs the body any more, and its room may be what the journal lacks.
        if self._delivery is not None:
            await self._delivery.remove_body()
