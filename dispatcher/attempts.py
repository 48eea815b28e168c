"""What nodes say of the tasks that they hold: accepted, declined, given back, how far, how it ended.

Every one of these changes something only for the lease that the task has now. What comes with an
old lease is answered with `Abandon`, so that the node stops the work, and changes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog
from msgspec import Struct

from agent.protocol import (
    Abandon,
    Accept,
    Begin,
    Decline,
    GiveBack,
    Held,
    Lease,
    Outcome,
    OutcomeAck,
    Output,
    Progress,
    Revision,
)
from dispatcher.endings import node_lost, of_outcome
from dispatcher.events import Events
from dispatcher.leases import Holding, LeaseTable, Stage
from dispatcher.matching import Matching
from dispatcher.metrics import Metrics
from dispatcher.queue import Queue
from dispatcher.store.base import Store
from dispatcher.store.errors import BodyMissing, StoreUnavailable
from dispatcher.store.records import Lost, State, Verdict
from dispatcher.tracing import Tracing

log = structlog.get_logger()

AGAIN_SECONDS = 5.0
"""What the store could not write down is tried again after so long."""

RETURNS = 5
"""A task that nodes accept and give back more often than this, without beginning it, loses an attempt each time."""

RETURNS_REMEMBERED = 10_000

SHUN_SECONDS = 5.0
"""A node that declined a task is not asked again for the same revision, or account, for so long."""


class Unsound(Exception):
    """A node's message contradicts what it did; its session cannot be trusted to go on."""


class Reconciled(Struct):
    """What a node is told of the leases that it still holds when its session begins."""

    keep: list[Lease] = []
    abandon: list[Lease] = []
    then: list[Begin | Abandon] = []
    """What is said of single leases after the hello."""


class Attempts:
    """The attempts under way, and how each of them ends."""

    def __init__(
        self,
        store: Store,
        queue: Queue,
        matching: Matching,
        leases: LeaseTable,
        events: Events,
        *,
        metrics: Metrics,
        tracing: Tracing | None = None,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._queue = queue
        self._matching = matching
        self._leases = leases
        self._events = events
        self._metrics = metrics
        self._tracing = tracing
        self._wall = wall
        self._monotonic = monotonic
        self._progress: dict[bytes, Progress] = {}
        """The newest progress of each lease that is not in the store yet."""
        self._returns: dict[str, int] = {}
        """How often a task was given back without having begun."""

    async def take_up(self) -> None:
        """Take up what nodes hold by the store and nobody watches over here.

        That is so after a restart, and after a claim whose commit the store could not confirm.
        """
        for leased in await self._store.leased():
            self._leases.take_up(leased, self._monotonic())

    async def reconcile(self, node: str, held: list[Held]) -> Reconciled:
        """Settle what a node holds with what is known here, when its session begins."""
        settled = Reconciled()
        for item in held:
            if (holding := await self._accepted(item.lease, node)) is not None:
                holding.shown = None  # an agent that was restarted counts its progress anew
                settled.keep.append(item.lease)
                if holding.revision.retries == 0 and not item.finished:
                    # Its accept may have come without a `Begin` going back. A second one does nothing.
                    settled.then.append(Begin(item.lease))
            elif await self._store.holds(item.lease, node):
                settled.keep.append(item.lease)
            elif await self._store.was_cancelled(item.lease, node):
                settled.then.append(Abandon(item.lease, "cancelled"))
            else:
                settled.abandon.append(item.lease)
        kept = {lease.token for lease in settled.keep}
        for holding in self._leases.of_node(node):
            if holding.lease.token not in kept:
                self._leases.drop(holding.lease)
                await self.lost(holding, "the node came back without it")
        return settled

    def accept(self, node: str, message: Accept) -> Awaitable[None]:
        """Record that a node has a task on its disk.

        Watchers are told at once, so that what the node says of its first phase comes after it.
        """
        if self._leases.find(message.lease, node) is not None:
            self._events.publish(message.lease.task, "state", {"state": State.ACCEPTED, "node": node})
        return self._record_accept(node, message)

    async def _record_accept(self, node: str, message: Accept) -> None:
        holding = await self._accepted(message.lease, node)
        if holding is None:
            await self._refuse(node, message.lease)
            return
        if holding.revision.retries == 0:
            self._queue.send(node, Begin(message.lease))

    async def _accepted(self, lease: Lease, node: str) -> Holding | None:
        """Write down that a node has a task; None where the lease is not its own, or ended meanwhile."""
        holding = self._leases.find(lease, node)
        if holding is None:
            return None
        self._leases.prolong(holding, self._monotonic())
        if self._queue.drafts.accept(lease):
            self._leases.accepted(holding, self._monotonic())
            return holding
        await self._queue.drafts.written(lease.task)
        if not await self._store.accept(lease, node) or self._leases.find(lease, node) is not holding:
            return None
        self._leases.accepted(holding, self._monotonic())
        return holding

    async def decline(self, node: str, message: Decline) -> None:
        """Put a task back that a node did not take."""
        holding = self._leases.find(message.lease, node)
        if holding is None:
            return
        log.info("offer declined", task=message.lease.task, node=node, reason=message.reason)
        what = holding.account if message.account else holding.revision.key
        self._matching.node_declined(node, what, self._monotonic() + SHUN_SECONDS)
        self._leases.drop(message.lease)
        await self._release(holding)

    async def give_back(self, node: str, message: GiveBack) -> None:
        """Put a task back whose attempt ended without an outcome."""
        holding = self._leases.find(message.lease, node)
        if holding is None:
            return
        self._leases.drop(message.lease)
        # What went wrong there would soon go wrong again: others are asked first.
        self._matching.node_declined(node, holding.revision.key, self._monotonic() + SHUN_SECONDS)
        if message.started or self._returned_too_often(message.lease.task):
            holding.stage = Stage.ACCEPTED  # its accept may still be on the way into the store
            await self.lost(holding, message.reason)
        else:
            log.info("task given back", task=message.lease.task, node=node, reason=message.reason)
            await self._release(holding)

    def progress(self, node: str, message: Progress) -> None:
        """Show how far an attempt is, and keep the newest for `keep_progress`."""
        holding = self._leases.find(message.lease, node)
        if holding is None or (holding.shown is not None and message.sequence <= holding.shown.sequence):
            return
        task = message.lease.task
        before, holding.shown = holding.shown, message
        self._progress[message.lease.token] = message
        if before is None or before.phase != message.phase:
            self._events.publish(task, "phase", {"phase": message.phase})
        if message.pulled is not None and (before is None or before.pulled != message.pulled):
            self._events.publish(task, "pull", {"done": message.pulled[0], "total": message.pulled[1]})
        if message.percent is not None and (
            before is None or (before.percent, before.message) != (message.percent, message.message)
        ):
            self._events.publish(task, "progress", {"progress": message.percent, "message": message.message})

    def output(self, node: str, message: Output) -> None:
        """Show the lines that a function wrote."""
        if self._leases.find(message.lease, node) is None:
            return
        for stream, line in message.lines:
            text = line.decode("utf-8", "replace")
            self._events.publish(message.lease.task, "log", {"stream": stream, "line": text})

    async def keep_progress(self) -> None:
        """Write the newest progress of each task to the store."""
        pending, self._progress = self._progress, {}
        # All at once, so that they share a commit.
        await asyncio.gather(
            *(
                self._keep_progress(message)
                for message in pending.values()
                if self._leases.of_task(message.lease.task) is not None
            )
        )

    async def _keep_progress(self, message: Progress) -> None:
        await self._queue.drafts.written(message.lease.task)
        await self._store.progress(message.lease, message.phase, message.percent, message.message)

    def freed(self, node: str, lease: Lease) -> None:
        """Note that a task is over on its node, before its end is recorded: its container is free for another."""
        holding = self._leases.find(lease, node)
        if holding is not None and holding.revision.reuse and holding.revision.mode == "http":
            self._matching.freed(holding.revision.key, self._monotonic())

    async def outcome(self, node: str, message: Outcome) -> None:
        """Record how an attempt ended, once, and acknowledge it when that is committed."""
        lease = message.lease
        holding = self._leases.find(lease, node)
        last = self._progress.pop(lease.token, None) if holding is not None else None
        ended = of_outcome(message, last, int(self._wall() * 1000))
        try:
            if await self._queue.drafts.finish(lease, node, ended):
                verdict = Verdict.RECORDED
            else:
                verdict = await self._store.finish(lease, node, ended)
        except BodyMissing:
            # The node said so before its upload was whole. It repeats both after its next hello.
            raise Unsound("the result's body was not uploaded") from None
        if holding is not None:
            self._leases.drop(lease)
        self._queue.send(node, OutcomeAck(lease, recorded=verdict is not Verdict.STALE))
        if verdict is Verdict.STALE:
            log.info("outcome refused", task=lease.task, attempt=lease.attempt, node=node)
        if verdict is not Verdict.RECORDED:
            return
        self._metrics.attempts.ran(message)
        if holding is not None and self._tracing is not None:
            self._tracing.ended(holding, ended)
        if holding is not None and holding.revision.reuse:
            self._matching.node_warmed(node, holding.revision.key)
        self._end(lease.task, ended.state, ended.status, ended.error)

    async def lost(self, holding: Holding, reason: str) -> None:
        """Count an attempt as lost: the task goes back, or ends where no attempts are left.

        An offer that was never answered was no attempt: it just goes back. Only where its node is out of sight, and
        may have begun before it answered, it counts.
        """
        lease = holding.lease
        may_have_begun = holding.revision.may_begin_early and self._queue.outlet(holding.node) is None
        if holding.stage is Stage.OFFERED and not may_have_begun:
            self._queue.send(holding.node, Abandon(lease, "stale"))
            await self._release(holding)
            return
        log_so_far = self._events.log(lease.task)
        ended = node_lost(lease.attempt, holding.node, reason, int(self._wall() * 1000), log_so_far)
        try:
            await self._queue.drafts.written(lease.task)
            verdict = await self._store.lose(lease, ended)
        except StoreUnavailable:
            self._leases.restore(holding, self._monotonic(), AGAIN_SECONDS)
            raise
        if verdict is Lost.STALE:
            return
        self._metrics.attempts_lost += 1
        log.warning("attempt lost", task=lease.task, attempt=lease.attempt, node=holding.node, reason=reason)
        if verdict is Lost.REQUEUED:
            self._events.publish(lease.task, "state", {"state": State.QUEUED, "reason": reason})
            self._queue.put_back(holding.revision, holding.account)
        else:
            if self._tracing is not None:
                self._tracing.ended(holding, ended)
            self._end(lease.task, ended.state, ended.status, ended.error)

    def expired_while_waiting(
        self, revision: Revision, account: str, task_ids: list[str], code: str, status: int
    ) -> None:
        """Tell the watchers of tasks that ended in the queue."""
        self._queue.ended_waiting(revision, account, len(task_ids))
        for task_id in task_ids:
            self._end(task_id, State.FINISHED, status, code)

    def _returned_too_often(self, task: str) -> bool:
        """Count a return without a start; after many of them, whatever is wrong will not go away by itself."""
        returns = self._returns.pop(task, 0) + 1
        if returns > RETURNS:
            return True
        self._returns[task] = returns
        if len(self._returns) > RETURNS_REMEMBERED:
            del self._returns[next(iter(self._returns))]
        return False

    async def _release(self, holding: Holding) -> None:
        try:
            await self._queue.drafts.written(holding.lease.task)
            released = await self._store.release(holding.lease)
        except StoreUnavailable:
            self._leases.restore(holding, self._monotonic(), AGAIN_SECONDS)
            raise
        if released:
            self._events.publish(holding.lease.task, "state", {"state": State.QUEUED})
            self._queue.put_back(holding.revision, holding.account)

    async def _refuse(self, node: str, lease: Lease) -> None:
        """Call an attempt back; of one that was cancelled, maybe at another dispatcher, the log is still wanted."""
        cancelled = await self._store.was_cancelled(lease, node)
        log.info("stale lease refused", task=lease.task, attempt=lease.attempt, node=node, cancelled=cancelled)
        self._queue.send(node, Abandon(lease, "cancelled" if cancelled else "stale"))

    def _end(self, task_id: str, state: State, status: int, error: str | None) -> None:
        self._events.publish(task_id, "end", {"state": state, "status": status, "error": error})
