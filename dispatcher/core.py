"""The dispatcher behind its API: queue, attempts, sessions and sweeper over one store."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import structlog

from dispatcher.attempts import Attempts
from dispatcher.events import Events
from dispatcher.feed import Feed
from dispatcher.leases import LeaseTable
from dispatcher.matching import Matching
from dispatcher.queue import Limits, Queue
from dispatcher.sessions import Sessions
from dispatcher.store.base import Store
from dispatcher.sweeper import Sweeper

log = structlog.get_logger()

RETURN_SECONDS = 1.0
"""Nodes are asked to stay away for so long when the dispatcher stops."""


class Core:
    """The running parts. `start` before the API listens, `stop` after it has stopped listening."""

    def __init__(
        self,
        store: Store,
        limits: Limits,
        version: str,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        rng = rng or random.SystemRandom()
        self.store = store
        self.version = version
        self.feed = Feed()
        self.events = Events(self.feed.task, wall)
        self.matching = Matching(rng)
        self.leases = LeaseTable()
        self.queue = Queue(store, self.matching, self.leases, self.events, limits, wall=wall, monotonic=monotonic)
        self.attempts = Attempts(
            store, self.queue, self.matching, self.leases, self.events, wall=wall, monotonic=monotonic
        )
        self.sessions = Sessions(
            store,
            self.queue,
            self.attempts,
            self.matching,
            self.leases,
            feed=self.feed,
            limits=limits,
            version=version,
            wall=wall,
            monotonic=monotonic,
        )
        self.sweeper = Sweeper(
            store,
            self.queue,
            self.attempts,
            self.sessions,
            self.matching,
            leases=self.leases,
            limits=limits,
            wall=wall,
            monotonic=monotonic,
            rng=rng,
        )
        self._loops: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take up what an earlier run left in the store, and begin to match and sweep."""
        await self.attempts.take_up()
        await self.queue.recount()
        self._loops = asyncio.create_task(self._run(), name="dispatcher loops")
        log.info("queue ready", waiting=self.queue.waiting, held=len(self.leases))

    async def ended(self) -> None:
        """Return, or raise what went wrong, when a loop ends: that is never expected."""
        assert self._loops is not None, "started"  # noqa: S101
        await asyncio.shield(self._loops)

    def stalled(self) -> list[str]:
        """Name the loops that should have made progress by now, and did not."""
        return [*(["pump"] if self.queue.stalled else []), *self.sweeper.stalled()]

    async def stop(self) -> None:
        """Say goodbye to the nodes and settle what they have said."""
        self.sessions.close_all("the dispatcher stops", RETURN_SECONDS)
        await self.sessions.drained()
        if self._loops is not None:
            self._loops.cancel()
            await asyncio.wait([self._loops])
        await self.attempts.keep_progress()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.queue.pump(), name="pump")
            group.create_task(self.sweeper.run(), name="sweeper")
