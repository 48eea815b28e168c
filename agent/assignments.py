"""All attempts of this node: which offers are taken, and whom a message concerns."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import structlog

from agent import protocol
from agent import task_state as ts
from agent.admission import Permits
from agent.attempt import RESTARTED, Attempt
from agent.availability import Availability
from agent.bodies import Bodies
from agent.containers.spec import is_allowed, may_be_privileged
from agent.journal import Journal, Kept
from agent.metrics import Metrics
from agent.protocol import (
    LEASE_SECONDS,
    Abandon,
    Capabilities,
    Credit,
    Decline,
    DispatcherHello,
    DispatcherMessage,
    Held,
    Lease,
    NodeMessage,
    Offer,
    OutcomeAck,
)
from agent.task_state import State
from agent.workplace import Begin, Workplace

OVERDUE_SECONDS = LEASE_SECONDS
"""After so long in a session without the dispatcher's next word, an outcome is repeated, a held offer given back."""

ADOPTION_SECONDS = 60.0
"""The engine must be found within so long of the start, or jobs that may still run on it are given back."""


class NothingToAbort(Exception):
    """Nothing runs for a task; the text is a sentence."""


class Assignments:
    """The attempts, by lease.

    Args:
        capabilities: Gives what this node is, as offers are judged by it.
        allowed_accounts: Those whose tasks the operator lets run; None: all.
        allowed_images: Patterns of the images that the operator lets run.
        privileged_images: Patterns of the images that the operator lets run privileged.
        begin, send, gave_back, metrics: See `Workplace`.
    """

    def __init__(
        self,
        journal: Journal,
        bodies: Bodies,
        permits: Permits,
        availability: Availability,
        *,
        capabilities: Callable[[], Capabilities],
        allowed_accounts: Sequence[str] | None,
        allowed_images: Sequence[str] | None,
        privileged_images: Sequence[str],
        begin: Begin,
        send: Callable[[NodeMessage], bool],
        gave_back: Callable[[str], None],
        metrics: Metrics,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._permits = permits
        self._availability = availability
        self._capabilities = capabilities
        self._allowed_accounts = allowed_accounts
        self._allowed_images = allowed_images
        self._privileged_images = privileged_images
        self._send = send
        self._metrics = metrics
        self._monotonic = monotonic
        self._journal = journal
        self._workplace = Workplace(
            journal,
            bodies,
            send,
            self.credit,
            begin,
            self._spawn,
            self._attempt_changed,
            gave_back,
            metrics,
            monotonic,
        )
        self._attempts: dict[Lease, Attempt] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        """What runs for attempts. The loop itself holds tasks only weakly."""
        self._adoption: asyncio.Task[None] | None = None
        self._offers_seen = 0
        self._session_began = monotonic()
        self._changed = asyncio.Event()
        self._log = structlog.get_logger()

    def __iter__(self) -> Iterator[Attempt]:
        return iter(list(self._attempts.values()))

    def __len__(self) -> int:
        return len(self._attempts)

    @property
    def running(self) -> int:
        """Attempts that something runs for."""
        return sum(attempt.is_working for attempt in self)

    def uses(self, file_name: str) -> bool:
        """Say whether a file among the bodies may belong to something that runs: its name begins with the task."""
        return any(file_name.startswith(attempt.lease.task) for attempt in self)

    def credit(self) -> Credit:
        """Say what is free for further offers.

        A permit is taken the moment an offer arrives, so the free amounts count every offer so far.
        """
        free = self._permits.free
        if not self._availability.available:
            return Credit(offers_seen=self._offers_seen)
        return Credit(free.cpus, free.memory, free.slots, self._offers_seen)

    def leases(self) -> list[Lease]:
        """List the leases to renew."""
        return [attempt.lease for attempt in self if attempt.is_held]

    # The session

    def session_begins(self) -> list[Held]:
        """Say what is held, for the hello of a new session."""
        self._offers_seen = 0
        return [attempt.held for attempt in self if attempt.is_held]

    def session_opened(self, hello: DispatcherHello) -> None:
        """Go by the dispatcher's answer to what is held."""
        self._session_began = self._monotonic()
        for lease in hello.abandon:
            self._tell(lease, ts.Abandoned("stale"))
        for attempt in self:
            attempt.handle(ts.SessionOpened())

    def received(self, message: DispatcherMessage) -> None:
        """Take a message that concerns an attempt. One about an attempt that is gone means nothing any more."""
        match message:
            case Offer():
                self._take(message)
            case protocol.Begin(lease):
                self._tell(lease, ts.Begun())
            case Abandon(lease, reason):
                self._tell(lease, ts.Abandoned(reason))
            case OutcomeAck(lease, recorded):
                if not recorded:
                    self._log.warning("outcome refused", task=lease.task, attempt=lease.attempt)
                self._tell(lease, ts.Acknowledged())

    # What an earlier run of the agent left

    def restore(self, kept: Sequence[Kept]) -> None:
        """Take up what an earlier run of the agent left.

        Outcomes are delivered. A job may still run, or have ended meanwhile, in its container: it waits for the
        engine. A call that was under way died with the agent, and is given back with the first session.
        """
        for item in kept:
            self._attempts[item.lease] = self._interrupted(item) or Attempt.of_kept(item, self._workplace)
        if kept:
            finished = sum(item.outcome is not None for item in kept)
            self._log.info("journal taken up", outcomes=finished, interrupted=len(kept) - finished)
        if any(attempt.life.state is State.INTERRUPTED for attempt in self):
            self._adoption = self._spawn(self._wait_for_engine(), "adoption")

    def engine_found(self, readopt: Callable[[Offer], bool]) -> None:
        """Go on with the jobs that the engine still has.

        Args:
            readopt: Claims the container of an offer; False where there is none.
        """
        if self._adoption is not None:
            self._adoption.cancel()
        for attempt in self:
            if attempt.life.state is State.INTERRUPTED and attempt.offer is not None:
                found = readopt(attempt.offer)
                attempt.handle(ts.Readopted() if found else ts.NotReadopted(RESTARTED))

    def _interrupted(self, kept: Kept) -> Attempt | None:
        """Take up a job, whose work may go on; None for everything else."""
        offer = kept.offer
        if kept.outcome is not None or offer is None or offer.revision.mode != "job":
            return None
        permit = self._permits.try_take(*offer.revision.share_of(self._capabilities()), offer.account)
        return Attempt.of_interrupted(offer, permit, self._workplace) if permit is not None else None

    async def _wait_for_engine(self) -> None:
        await asyncio.sleep(ADOPTION_SECONDS)
        for attempt in self:
            attempt.handle(ts.NotReadopted("the agent was restarted, and the engine did not answer"))

    # What waits too long

    def look_for_overdue(self) -> None:
        """Remind of what the dispatcher has not answered. Only called while there is a session."""
        now = self._monotonic()
        for attempt in self:
            if now - max(attempt.since, self._session_began) >= OVERDUE_SECONDS:
                attempt.handle(ts.Overdue())

    def drop_aged(self) -> None:
        """Let go of what the dispatcher did not take in all the time that the journal allows."""
        for attempt in self:
            if attempt.is_kept and (age := self._journal.age(attempt.lease)) >= self._journal.config.max_age:
                self._log.error(
                    "dropped: the dispatcher did not take it in time",
                    task=attempt.lease.task,
                    attempt=attempt.lease.attempt,
                    finished=attempt.held.finished,
                    age_seconds=round(age),
                )
                attempt.handle(ts.Abandoned("stale"))

    # Offers

    def _take(self, offer: Offer) -> None:
        self._offers_seen = max(self._offers_seen, offer.number)
        if offer.lease in self._attempts:
            return
        refused = self._refusal(offer)
        reason = refused or self._objection(offer)
        share = offer.revision.share_of(self._capabilities())
        permit = self._permits.try_take(*share, offer.account) if not reason else None
        if permit is None:
            reason = reason or "no permit"
            self._log.info("offer declined", task=offer.lease.task, attempt=offer.lease.attempt, reason=reason)
            self._metrics.offers_declined += 1
            self._send(Decline(offer.lease, reason, self.credit(), account=bool(refused)))
            return
        self._metrics.offers_taken += 1
        self._attempts[offer.lease] = Attempt.of_offer(offer, permit, self._workplace)

    def _refusal(self, offer: Offer) -> str:
        """Say why no task of an account can be taken now; empty if one can."""
        if self._allowed_accounts is not None and offer.account not in self._allowed_accounts:
            return "the account is not allowed"
        if self._permits.is_beyond_share(*offer.revision.share_of(self._capabilities()), offer.account):
            return "the account has its share"
        return ""

    def _objection(self, offer: Offer) -> str:
        """Say why an offer cannot be taken, whatever is free; empty if it can."""
        revision, capabilities = offer.revision, self._capabilities()
        if not self._availability.available:
            return self._availability.reason
        if obstacle := self._journal.obstacle:
            return obstacle
        if any(attempt.lease.task == offer.lease.task and attempt.is_held for attempt in self):
            return "duplicate"
        if not is_allowed(revision.image, self._allowed_images):
            return "the image is not allowed"
        if revision.privileged and not may_be_privileged(revision, self._privileged_images, capabilities.privileged):
            return "privileged is not allowed"
        if revision.network == "internet" and not capabilities.internet:
            return "internet is not allowed"
        return ""

    # Stopping

    def drain(self) -> None:
        """Begin nothing new."""
        for attempt in self:
            attempt.handle(ts.Lasting())
            attempt.handle(ts.Draining())

    def abort(self) -> None:
        """End what runs, to give it back."""
        for attempt in self:
            attempt.handle(ts.Aborted())

    async def abort_task(self, task: str) -> list[Attempt]:
        """End what runs for one task, as the machine's owner wants it, and return when it has ended.

        The task goes back to the dispatcher, which is told with the next session if there is none. What the function
        answers before it obeys counts.

        Raises:
            NothingToAbort: Nothing runs for it here.
        """
        of_task = [attempt for attempt in self if attempt.lease.task == task]
        chosen = [attempt for attempt in of_task if attempt.may_be_aborted]
        if not chosen:
            here = "has ended, and its end waits for the dispatcher" if of_task else "is not here"
            raise NothingToAbort(f"task {task} {here}")
        for attempt in chosen:
            attempt.handle(ts.Aborted("stopped_by_owner"))
        while any(attempt.is_working for attempt in chosen):
            await self._next_change()
        return chosen

    def time_left(self) -> float:
        """Give the seconds that what runs may still take at most; without end where nobody can tell yet."""
        lefts = [attempt.time_left for attempt in self if attempt.is_working]
        return max((math.inf if left is None else left for left in lefts), default=0.0)

    def cancel(self) -> None:
        """End what did not end when it was told to."""
        for attempt in self:
            attempt.cancel_work()

    async def until_idle(self) -> None:
        """Return when nothing runs, and what ran is spooled."""
        while any(attempt.is_working or attempt.life.state is State.SPOOLING for attempt in self):
            await self._next_change()

    async def until_empty(self) -> None:
        """Return when nothing is left to do or to deliver."""
        while self._attempts:
            await self._next_change()

    async def join(self) -> None:
        """Return when no task of an attempt is left; those that only wait for the dispatcher are cancelled.

        What the dispatcher does not have by then is in the journal.
        """
        for attempt in self:
            attempt.handle(ts.Lasting())
        self.cancel()
        if self._adoption is not None:
            self._adoption.cancel()
        for attempt in self:
            attempt.cancel_upload()
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    # Attempts

    def _tell(self, lease: Lease, event: ts.Event) -> None:
        if (attempt := self._attempts.get(lease)) is not None:
            attempt.handle(event)

    def _attempt_changed(self, attempt: Attempt) -> None:
        if attempt.has_ended:
            self._attempts.pop(attempt.lease, None)
        self._changed.set()

    def _spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
