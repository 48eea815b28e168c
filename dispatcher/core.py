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
from dispatcher.lookups import Lookups
from dispatcher.matching import Matching
from dispatcher.metrics import Metrics
from dispatcher.presence import Presence
from dispatcher.prewarming import Prewarming
from dispatcher.queue import Limits, Queue
from dispatcher.quotas import Quotas
from dispatcher.replicas import Replicas
from dispatcher.running import Running
from dispatcher.sessions import Sessions
from dispatcher.store.base import Store
from dispatcher.sweeper import Sweeper
from dispatcher.tracing import Tracing

log = structlog.get_logger()

RETURN_SECONDS = 1.0
"""Nodes are asked to stay away for so long at least when the dispatcher stops, and there is no other."""

MOVE_SECONDS = 0.1
"""Nodes that can go to another dispatcher are asked to stay away for so long."""

DRAIN_SECONDS = 10.0
"""Goodbyes, or returns, are spread over so long at most."""

MOVES_A_SECOND = 200
"""Nodes that are let go in a second, where that takes no longer than `DRAIN_SECONDS`."""


class Core:
    """The running parts. `start` before the API listens, `stop` after it has stopped listening."""

    def __init__(
        self,
        store: Store,
        limits: Limits,
        version: str,
        *,
        tracing: Tracing | None = None,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        rng = rng or random.SystemRandom()
        self.store = store
        self.lookups = Lookups(store, monotonic)
        self.version = version
        self.feed = Feed()
        self.events = Events(self.feed.task, wall)
        self.quotas = Quotas(store, limits.account)
        self.running = Running(self.quotas.running)
        self.matching = Matching(rng, self.running)
        self.leases = LeaseTable(self.running)
        self.metrics = Metrics()
        self.tracing = tracing
        self.queue = Queue(
            store,
            self.matching,
            self.leases,
            self.events,
            limits,
            quotas=self.quotas,
            metrics=self.metrics,
            tracing=tracing,
            wall=wall,
            monotonic=monotonic,
        )
        self.running.has_room = self.queue.account_has_room
        self.prewarming = Prewarming(store, self.queue)
        self.attempts = Attempts(
            store,
            self.queue,
            self.matching,
            self.leases,
            self.events,
            metrics=self.metrics,
            tracing=tracing,
            wall=wall,
            monotonic=monotonic,
        )
        self.sessions = Sessions(
            store,
            self.queue,
            self.attempts,
            self.matching,
            self.leases,
            feed=self.feed,
            metrics=self.metrics,
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
            refresh_quotas=self.refresh_quotas,
            wall=wall,
            monotonic=monotonic,
            rng=rng,
        )
        self.replicas = self._join_others(monotonic, wall, rng)
        self._rng = rng
        self._loops: asyncio.Task[None] | None = None

    def _join_others(
        self, monotonic: Callable[[], float], wall: Callable[[], float], rng: random.Random
    ) -> Replicas | None:
        """Where the store is shared: tell the others what they must know, and be told."""
        if self.store.peers is None:
            return None
        replicas = Replicas(
            self.store.peers,
            self.queue,
            self.matching,
            self.leases,
            self.events,
            running=self.running,
            nodes=self.sessions,
            feed=self.feed,
            wall=wall,
            monotonic=monotonic,
            rng=rng,
        )
        self.events.outside = self.feed.outside = self.queue.outside = self.sweeper.outside = replicas
        self.sessions.seats = replicas
        return replicas

    async def start(self) -> None:
        """Take up what an earlier run left in the store, and begin to match and sweep."""
        if self.replicas is not None:
            await self.replicas.start()
        await self.refresh_quotas()
        await self.attempts.take_up()
        await self.queue.recount()
        self._loops = asyncio.create_task(self._run(), name="dispatcher loops")
        log.info("queue ready", waiting=self.queue.backlog.total, held=len(self.leases))

    async def refresh_quotas(self) -> None:
        """Let the limits of accounts hold as they are in the store."""
        self.running.limits_changed(await self.quotas.refresh())

    async def ended(self) -> None:
        """Return, or raise what went wrong, when a loop ends: that is never expected."""
        assert self._loops is not None, "started"  # noqa: S101
        await asyncio.shield(self._loops)

    def idle(self) -> dict[str, float]:
        """Say of each loop how many seconds ago it made progress."""
        return {"pump": self.queue.busy_seconds, **self.sweeper.idle()}

    def stalled(self) -> list[str]:
        """Name the loops that should have made progress by now, and did not."""
        return [*(["pump"] if self.queue.stalled else []), *self.sweeper.stalled()]

    async def stop(self) -> None:
        """Say goodbye to the nodes and settle what they have said."""
        nodes = self.sessions.count
        if self.replicas is not None and self.replicas.others:
            await self.sessions.drain("the dispatcher stops", MOVE_SECONDS, min(DRAIN_SECONDS, nodes / MOVES_A_SECOND))
        else:
            spread = min(DRAIN_SECONDS, nodes / MOVES_A_SECOND)
            self.sessions.close_all("the dispatcher stops", lambda: RETURN_SECONDS + self._rng.uniform(0, spread))
        await self.sessions.drained()
        if self._loops is not None:
            self._loops.cancel()
            await asyncio.wait([self._loops])
        await self.queue.drafts.close()
        if self.tracing is not None:
            await self.tracing.flush()
        await self.attempts.keep_progress()
        if self.replicas is not None:
            await self.replicas.stop()

    def node_joined(self, node: str, joined_ms: int) -> None:
        """End the sessions that a node has begun with an earlier credential, wherever they are."""
        self.sessions.close(node, "the node has joined again", joined_ms)
        if self.replicas is not None:
            self.replicas.joined(node, joined_ms)

    async def remove_node(self, node: str) -> None:
        """Close the session of a node that its owner removed, wherever it is, and put its tasks back."""
        await self.sessions.node_removed(node)
        if self.replicas is not None:
            self.replicas.removed(node)

    async def presences(self, nodes: list[str]) -> dict[str, Presence]:
        """Give what is known of nodes that are connected, here or to another dispatcher."""
        if self.replicas is not None:
            return await self.replicas.presences(nodes)
        return {node: presence for node in nodes if (presence := self.sessions.presence(node)) is not None}

    async def presences_of(self, account: str) -> list[Presence]:
        """Give what is known of the nodes of an account that are connected, here or to another dispatcher."""
        here = self.sessions.presences_of(account)
        return here if self.replicas is None else [*here, *await self.replicas.presences_elsewhere(account)]

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.queue.pump(), name="pump")
            group.create_task(self.prewarming.run(), name="prewarming")
            group.create_task(self.sweeper.run(), name="sweeper")
            if self.replicas is not None:
                group.create_task(self.replicas.run(), name="replicas")
            if self.tracing is not None:
                group.create_task(self.tracing.run(), name="tracing")
