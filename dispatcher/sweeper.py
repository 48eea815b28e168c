"""What must happen when nothing happens: leases end, nobody comes for a task, counts drift.

Each sweep is one small loop, started and named in `Sweeper.run`. A sweep that meets a store that does
not answer says so and comes again; any other error ends the dispatcher, which is better than one that
looks healthy and does not sweep.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from agent.codes import TASKS
from agent.protocol import Revision
from dispatcher.attempts import Attempts
from dispatcher.endings import without_answer
from dispatcher.leases import LeaseTable
from dispatcher.matching import Matching
from dispatcher.needs import Lack
from dispatcher.queue import Limits, Queue
from dispatcher.sessions import Sessions
from dispatcher.store.base import Store
from dispatcher.store.errors import StoreUnavailable

log = structlog.get_logger()

LEASES_SECONDS = 0.5
STALL_SECONDS = 3.0
"""A sweep of leases that comes so much too late shows that the whole process stood still."""

PROGRESS_SECONDS = 0.1
QUOTAS_SECONDS = 1.0
CAPABLE_SECONDS = 2.0
RECOUNT_SECONDS = 60.0
SEEN_SECONDS = 60.0
RETENTION_SECONDS = 10.0
LEAP_SECONDS = 60.0

DUE_SECONDS = 300.0
"""A sweep that has not come round for so long has stalled: the longest ones have a long backlog to work off."""

REMOVE_BATCH = 200
"""Tasks that are removed in one transaction: few, so that no caller waits long behind it."""

REMOVE_REST = 3.0
"""After such a transaction nothing is removed for so many times as long as it took: today's tasks come first."""

REMOVE_SECONDS = 60.0
"""A sweep ends after so long, and the next one goes on."""

EXPIRE_BATCH = 500


class Outside(Protocol):
    """Other dispatchers on the same store, as the sweeper sees them."""

    def lacks(self, lacks: dict[str, Lack | None]) -> None:
        """Tell why no node here could run revisions that wait, by their keys; None where one could."""

    def lacks_elsewhere(self, revision_key: str) -> list[Lack | None]:
        """Give what the others said lately of their nodes and a revision."""


class Sweeper:
    """The loops that keep the queue true."""

    def __init__(
        self,
        store: Store,
        queue: Queue,
        attempts: Attempts,
        sessions: Sessions,
        matching: Matching,
        *,
        leases: LeaseTable,
        limits: Limits,
        refresh_quotas: Callable[[], Awaitable[None]],
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        rng: random.Random,
    ) -> None:
        self._store = store
        self._queue = queue
        self._attempts = attempts
        self._sessions = sessions
        self._matching = matching
        self._leases = leases
        self._limits = limits
        self._refresh_quotas = refresh_quotas
        self._wall = wall
        self._monotonic = monotonic
        self._rng = rng
        self._wall_offset = wall() - monotonic()
        self._leases_swept = monotonic()
        self._keep_until = 0.0
        """No finished task is removed before this time, by monotonic seconds."""
        self._came_round: dict[str, float] = {}
        """When each sweep last ended, by monotonic seconds."""
        self.outside: Outside | None = None
        self._unmet_since: dict[str, float] = {}
        """Since when no connected node could run a revision that waits, by monotonic seconds."""

    async def run(self) -> None:
        """Sweep for as long as the dispatcher runs."""
        async with asyncio.TaskGroup() as group:
            for name, seconds, sweep in (
                ("leases", LEASES_SECONDS, self.leases),
                ("progress", PROGRESS_SECONDS, self._attempts.keep_progress),
                ("quotas", QUOTAS_SECONDS, self._refresh_quotas),
                ("capable", CAPABLE_SECONDS, self.capable),
                ("recount", RECOUNT_SECONDS, self.recount),
                ("seen", SEEN_SECONDS, self._sessions.keep_all_seen),
                ("retention", RETENTION_SECONDS, self.retention),
            ):
                group.create_task(self._loop(name, seconds, sweep), name=f"sweep {name}")

    def idle(self) -> dict[str, float]:
        """Say of each sweep how many seconds ago it came round."""
        now = self._monotonic()
        return {f"sweep {name}": now - at for name, at in self._came_round.items()}

    def stalled(self) -> list[str]:
        """Name the sweeps that should have come round by now, and did not."""
        return [name for name, seconds in self.idle().items() if seconds > DUE_SECONDS]

    async def _loop(self, name: str, seconds: float, sweep: Callable[[], Awaitable[None]]) -> None:
        while True:
            self._came_round[name] = self._monotonic()
            # At random within the interval, so that replicas do not fall into step.
            await asyncio.sleep(seconds * self._rng.uniform(0.5, 1.0))
            try:
                await sweep()
            except StoreUnavailable as error:
                log.warning("sweep failed, the store does not answer", sweep=name, error=str(error))

    async def leases(self) -> None:
        """Put back the tasks whose offer has no answer or whose node went silent."""
        now = self._monotonic()
        overslept = now - self._leases_swept - LEASES_SECONDS
        self._leases_swept = now
        if overslept > STALL_SECONDS:
            # This process stood still. What nodes sent meanwhile has not been read yet.
            log.warning("the dispatcher stood still, leases are prolonged", seconds=round(overslept, 1))
            self._leases.forgive(overslept)
        due = self._leases.due(now)
        results = await asyncio.gather(
            *(self._attempts.lost(holding, "its lease expired") for holding in due), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def capable(self) -> None:
        """End tasks that no connected node could have run for longer than they may wait."""
        now = self._monotonic()
        unmet_since: dict[str, float] = {}
        here = self._matching.lacks()
        if self.outside is not None:
            self.outside.lacks({revision.key: lack for revision, _, lack in here})
        for revision, account, lack_here in here:
            lack = self._lack_anywhere(revision, lack_here)
            if lack is None:
                continue
            since = self._unmet_since.get(revision.key, now)
            unmet_since[revision.key] = since
            if now - since < self._limits.no_capable_seconds:
                continue
            now_ms = int(self._wall() * 1000)
            ended = without_answer("NO_CAPABLE_NODE", f"queue time used up: {lack}", now_ms)
            issued_before_ms = now_ms - int(self._limits.no_capable_seconds * 1000)
            ids = await self._store.expire_queued(revision.key, issued_before_ms, ended, EXPIRE_BATCH)
            status = TASKS["NO_CAPABLE_NODE"].status
            self._attempts.expired_while_waiting(revision, account, ids, "NO_CAPABLE_NODE", status)
            if ids:
                log.warning("tasks ended, no capable node", revision=revision.key, tasks=len(ids), reason=str(lack))
        self._unmet_since = unmet_since

    def _lack_anywhere(self, revision: Revision, here: Lack | None) -> Lack | None:
        """Say why no node could ever run a revision, wherever it is connected; None where one could."""
        lack = here
        for elsewhere in self.outside.lacks_elsewhere(revision.key) if self.outside is not None else []:
            if lack is None or elsewhere is None:
                return None
            lack = lack.with_others(elsewhere)
        return lack

    async def recount(self) -> None:
        """Make what is known in memory agree with the store."""
        await self._queue.recount()
        await self._attempts.take_up()

    async def retention(self) -> None:
        """Remove the tasks that ended longer ago than they are kept, and the record of changes as old as that.

        Where the wall clock leaps ahead, what has just ended looks old: nothing is removed then before its
        time has passed by the monotonic clock, too.
        """
        now = self._monotonic()
        offset = self._wall() - now
        if offset - self._wall_offset > LEAP_SECONDS:
            log.warning(
                "the wall clock leapt ahead, finished tasks are kept longer", seconds=offset - self._wall_offset
            )
            self._keep_until = now + self._limits.retention_seconds
        self._wall_offset = offset
        if now < self._keep_until:
            return
        before_ms = int((self._wall() - self._limits.retention_seconds) * 1000)
        removed = await removed_gently(lambda: self._store.remove_finished(before_ms, REMOVE_BATCH), self._monotonic)
        if removed:
            log.info("old tasks removed", tasks=removed)
        audit_ms = int((self._wall() - self._limits.audit_seconds) * 1000)
        await removed_gently(lambda: self._store.remove_audit(audit_ms, REMOVE_BATCH), self._monotonic)


async def removed_gently(remove: Callable[[], Awaitable[int]], monotonic: Callable[[], float] = time.monotonic) -> int:
    """Remove batch after batch with rests between them, until there is none or a sweep's time is over.

    Args:
        remove: Removes a batch and says how much it held.

    Returns:
        How much was removed.
    """
    removed, begun = 0, monotonic()
    while (before := monotonic()) < begun + REMOVE_SECONDS and (batch := await remove()) > 0:
        removed += batch
        await asyncio.sleep(REMOVE_REST * (monotonic() - before))
    return removed
