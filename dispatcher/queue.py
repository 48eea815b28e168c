"""Tasks from their creation to an offer: committed, matched, claimed, offered.

The store decides who gets a task; what is kept here (how many wait, which nodes have room) only
says where asking it is worth the while, and mends itself: a count that is too high costs a claim
that finds nothing, and the sweeper recounts.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from secrets import token_bytes
from typing import Protocol

import structlog
from msgspec import Struct

from agent.protocol import Abandon, DispatcherMessage, Lease, Offer, Revision
from dispatcher.backlog import Backlog
from dispatcher.drafts import Draft, Drafts
from dispatcher.endings import without_answer
from dispatcher.events import Events
from dispatcher.leases import LeaseTable
from dispatcher.matching import Match, Matching
from dispatcher.metrics import Metrics
from dispatcher.quotas import Quotas
from dispatcher.store.access import NO_LIMITS, AccountLimits, AuditLine
from dispatcher.store.base import Store
from dispatcher.store.errors import StoreUnavailable
from dispatcher.store.records import Claim, NewTask, State, Task
from dispatcher.tracing import Tracing

log = structlog.get_logger()

BATCH = 64
"""Matches that are claimed together."""

DUE_SECONDS = 120.0
"""Matching that has been busy with one batch for so long has stalled."""

RETRY_SECONDS = 1.0
"""After the store failed, matching rests for so long."""


class Limits(Struct, frozen=True):
    """What the queue holds to.

    Attributes:
        queue_length: Tasks that may wait.
        result_bytes: Bytes that an answer may have.
        no_capable_seconds: How long a task waits while no connected node could ever run it.
        retention_seconds: How long a finished task is kept.
        audit_seconds: How long the record of a change is kept.
        account: What accounts may have that have no limits of their own.
    """

    queue_length: int = 100_000
    result_bytes: int = 32 * 1024 * 1024
    no_capable_seconds: float = 300
    retention_seconds: float = 7 * 86_400
    audit_seconds: float = 365 * 86_400
    account: AccountLimits = NO_LIMITS


class Outlet(Protocol):
    """A node's session, as the queue sees it."""

    def send(self, *messages: DispatcherMessage) -> None:
        """Send messages, in this order. Nothing happens where the session has ended."""

    def close(self, reason: str, retry_after: float = 0) -> None:
        """Say goodbye and end the session."""


class Outside(Protocol):
    """Other dispatchers on the same store, as the queue sees them."""

    def waits(self, revision: Revision, change: int) -> None:
        """Tell that more tasks of a revision wait, or fewer."""

    def cancelled(self, task: str, state: State, status: int, error: str | None) -> None:
        """Tell that its owner has ended a task."""


class Queue:
    """The tasks that wait, and the way from there to a node."""

    def __init__(
        self,
        store: Store,
        matching: Matching,
        leases: LeaseTable,
        events: Events,
        limits: Limits,
        *,
        quotas: Quotas | None = None,
        metrics: Metrics,
        tracing: Tracing | None = None,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        new_token: Callable[[], bytes] = lambda: token_bytes(16),
    ) -> None:
        quotas = quotas or Quotas(store, limits.account)
        self._store = store
        self._matching = matching
        self._leases = leases
        self._events = events
        self._metrics = metrics
        self._tracing = tracing
        self._wall = wall
        self._monotonic = monotonic
        self._new_token = new_token
        self._outlets: dict[str, Outlet] = {}
        self._announced: DispatcherMessage | None = None
        self.drafts = Drafts(store, waits=self._waits, withdrawn=self._withdrawn)
        """Those that are not in the store yet."""
        self._to_claim: list[Match] = []
        """Matches whose tasks are in the store."""
        self._resting = False
        """The store failed, and nothing is matched for a moment."""
        self._wake = asyncio.Event()
        self._busy_since: float | None = None
        """Since when, by monotonic seconds, one batch is being claimed and offered."""
        self.outside: Outside | None = None
        self.backlog = Backlog(limits.queue_length, quotas.queue_length, monotonic)

    # callers

    async def submit(self, new: NewTask) -> str:
        """Queue a task. When this returns, the task is committed.

        Returns:
            The task's id; an earlier task's where the idempotency key was used before.

        Raises:
            QueueFull: Too many tasks wait.
            KeyReused: The idempotency key was used for something else.
            StoreUnavailable: Nothing is known of the task; the caller may ask again with the same key.
        """
        self.backlog.check_room(new.account)
        task_id = await self._store.create_task(new)
        if task_id == new.id:
            self._events.waits(task_id)
            self.put_back(new.revision, new.account)
        return task_id

    def draft(self, new: NewTask) -> Draft:
        """Queue a task whose caller waits for its end and was promised nothing before; see `dispatcher.drafts`.

        Raises:
            QueueFull: Too many tasks wait.
        """
        self.backlog.check_room(new.account)
        draft = self.drafts.add(new)
        self._events.waits(new.id)
        self.backlog.came(new.account)
        self._matching.added(new.revision, new.account)
        self._match()
        if draft.lease is None and self.outside is not None:
            self.drafts.write(draft)  # another dispatcher may have a node with room
        return draft

    async def cancel(self, account: str, task_id: str, audit: AuditLine | None = None) -> tuple[Task, bool] | None:
        """End a task for its owner and call it back from its node.

        Args:
            audit: Who asks for it; kept if this call ends the task.

        Returns:
            The task as it stood before and whether this call ended it; None where there is no such task.
        """
        await self.drafts.written(task_id)
        ended = without_answer("CANCELLED", "cancelled by its owner", self._now_ms(), self._events.log(task_id))
        found = await self._store.cancel(account, task_id, ended, audit)
        if found is None:
            return None
        task, cancelled = found
        if cancelled:
            if task.state is State.QUEUED:
                self.ended_waiting(task.revision, task.account, 1)
            holding = self._leases.of_task(task_id)
            if holding is not None:
                self._leases.drop(holding.lease)
                if self._tracing is not None:
                    self._tracing.ended(holding, ended)
                self.send(holding.node, Abandon(holding.lease, "cancelled"))
            elif self.outside is not None:
                self.outside.cancelled(task_id, ended.state, ended.status, ended.error)
            self._events.publish(task_id, "end", {"state": ended.state, "status": ended.status, "error": ended.error})
        return task, cancelled

    # sessions

    def seat(self, node_id: str, outlet: Outlet) -> None:
        """Let offers for a node go out through its session."""
        self._outlets[node_id] = outlet
        if self._announced is not None:
            outlet.send(self._announced)
        self._wake.set()

    def unseat(self, node_id: str, outlet: Outlet) -> None:
        """End what `seat` began, unless a newer session of the node has taken the place."""
        if self._outlets.get(node_id) is outlet:
            del self._outlets[node_id]
            self._matching.node_left(node_id)

    def outlet(self, node_id: str) -> Outlet | None:
        """Give the session of a node, if it has one here."""
        return self._outlets.get(node_id)

    @property
    def nodes(self) -> int:
        """How many nodes have a session here."""
        return len(self._outlets)

    def send(self, node_id: str, *messages: DispatcherMessage) -> None:
        """Send to a node, if it has a session here; otherwise its next hello settles the matter."""
        outlet = self._outlets.get(node_id)
        if outlet is not None:
            outlet.send(*messages)

    def announce(self, message: DispatcherMessage) -> None:
        """Tell every node, those too that come to their seat later; it takes the place of what was told before."""
        self._announced = message
        for outlet in self._outlets.values():
            outlet.send(message)

    def account_has_room(self, account: str) -> None:
        """Look for matches again: fewer tasks of an account are with nodes than may be."""
        self._matching.has_room(account)
        self._wake.set()

    def room_changed(self) -> None:
        """Look for matches again: a node has more credit, or other capabilities."""
        self._match()

    # tasks that wait

    def put_back(self, revision: Revision, account: str, count: int = 1) -> None:
        """Note that so many more tasks of a revision, which is the account's, are in the store, waiting."""
        self.heard(revision, account, count)
        if self.outside is not None:
            self.outside.waits(revision, count)

    def ended_waiting(self, revision: Revision, account: str, count: int) -> None:
        """Note that so many tasks of a revision ended while they waited, or were claimed."""
        self.backlog.went(account, count)
        if self.outside is not None and count:
            self.outside.waits(revision, -count)

    def heard(self, revision: Revision, account: str, change: int) -> None:
        """Note that so many more tasks of a revision wait, or fewer."""
        if change > 0:
            self.backlog.came(account, change)
            self._matching.added(revision, account, change)
            self._wake.set()
        else:
            self.backlog.went(account, -change)
            self._matching.fewer(revision.key, -change)

    async def recount(self) -> None:
        """Make what is known of the waiting tasks agree with the store."""
        marks = self._matching.mark()
        counted = await self._store.queued()
        drafts = list(self.drafts.all_waiting())
        self.backlog.recounted(
            [*((account, tasks) for _, account, tasks in counted), *((new.account, tasks) for new, tasks in drafts)]
        )
        self._matching.recounted(counted, marks)
        for new, count in drafts:
            self._matching.added(new.revision, new.account, count)
        self._wake.set()

    async def pump(self) -> None:
        """Match, claim and offer, for as long as the dispatcher runs."""
        while True:
            self._busy_since = None
            self._match()
            matches, self._to_claim = self._to_claim, []
            if not matches:
                await self._rest()
                continue
            self._busy_since = self._monotonic()
            grouped: dict[tuple[str, str], list[Match]] = defaultdict(list)
            for match in matches:
                grouped[match.revision.key, match.node].append(match)
            results = await asyncio.gather(*map(self._claim, grouped.values()))
            if not all(results):
                self._resting = True
                await asyncio.sleep(RETRY_SECONDS)
                self._resting = False

    @property
    def busy_seconds(self) -> float:
        """For so long the pump has been busy with one batch; 0 while it rests."""
        return 0.0 if self._busy_since is None else self._monotonic() - self._busy_since

    @property
    def stalled(self) -> bool:
        """The pump should have got on by now, and did not."""
        return self.busy_seconds > DUE_SECONDS

    def _match(self) -> None:
        """Match what waits with nodes that have room. Drafts are offered at once; `pump` claims what is in the store.

        What is in the store has waited longer, so it goes first.
        """
        if self._resting:
            return
        matches = self._take_matches()
        by_revision: dict[str, list[Match]] = {}
        for match in matches:
            by_revision.setdefault(match.revision.key, []).append(match)
        for key, found in by_revision.items():
            stored = max(0, self._matching.demand(key) + len(found) - self.drafts.waiting(key))
            self._to_claim += found[:stored]
            for match in found[stored:]:
                self._give_draft(match)
        if self._to_claim or len(matches) == BATCH:
            self._wake.set()

    def _give_draft(self, match: Match) -> None:
        draft = self.drafts.take(match.revision.key)
        if draft is None:
            self._matching.settle(match)
            return
        new, now_ms = draft.new, self._now_ms()
        lease = Lease(new.id, 1, self._new_token())
        draft.give(lease, match.node, now_ms)
        self.backlog.went(new.account)
        claim = Claim(lease, new.account, new.issued_ms, new.revision, new.query, new.headers, new.body, new.body_size)
        self._offer(match, claim)

    def _waits(self, new: NewTask) -> None:
        self.put_back(new.revision, new.account)

    def _withdrawn(self, new: NewTask) -> None:
        self.backlog.went(new.account)
        self._matching.fewer(new.revision.key, 1)

    def _take_matches(self) -> list[Match]:
        now = self._monotonic()
        matches: list[Match] = []
        while len(matches) < BATCH and (match := self._matching.next(now)) is not None:
            matches.append(match)
        return matches

    async def _rest(self) -> None:
        now = self._monotonic()
        again = self._matching.wake_at(now)
        try:
            async with asyncio.timeout(None if again is None else max(0.0, again - now)):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _claim(self, matches: list[Match]) -> bool:
        """Claim for matches of one revision with one node; False where the store failed."""
        node, revision, account = matches[0].node, matches[0].revision, matches[0].account
        mark = self._matching.mark_of(revision.key)
        try:
            claims = await self._store.claim(revision.key, node, [self._new_token() for _ in matches], self._now_ms())
        except StoreUnavailable as error:
            log.warning("claim failed", node=node, error=str(error))
            for match in matches:
                self._matching.settle(match)
            # Whether it was committed is not known. What was is seen by the recount, or by the sweeper
            # when the store is back: nobody holds it.
            self._matching.added(revision, account, len(matches))
            return False
        self.ended_waiting(revision, account, len(claims))
        for match, claim in zip(matches, claims, strict=False):
            self._offer(match, claim)
        for match in matches[len(claims) :]:
            self._matching.settle(match)
        if len(claims) < len(matches):
            self._matching.found_fewer(revision.key, mark)
            if waiting := self.drafts.waiting(revision.key):
                self._matching.added(revision, account, waiting)
                self._wake.set()
        return True

    def _offer(self, match: Match, claim: Claim) -> None:
        task = claim.lease.task
        holding = self._leases.grant(claim.lease, claim.account, match.node, claim.revision, now=self._monotonic())
        self._matching.offered(match)
        if self._tracing is not None:
            holding.trace = self._tracing.offered(claim, self._now_ms())
        if claim.lease.attempt == 1:
            self._events.begin(task, claim.issued_ms)
        self._events.publish(
            task, "state", {"state": State.OFFERED, "node": match.node, "attempt": claim.lease.attempt}
        )
        # Where the session has ended meanwhile, the offer stays without an answer, and the sweeper puts it back.
        if not self._matching.is_held(match):
            return
        self._metrics.waited(self._now_ms() - claim.issued_ms)
        self.send(
            match.node,
            Offer(
                match.number,
                claim.lease,
                claim.revision,
                hold=claim.revision.retries == 0,
                query=claim.query,
                headers=claim.headers,
                body=claim.body,
                body_size=claim.body_size,
                account=claim.account,
            ),
        )

    def _now_ms(self) -> int:
        return int(self._wall() * 1000)
