"""Containers that are ready before the first task asks for one, of the revisions that want it.

They take what memory is left over: never so much that another function's task would have to wait for room, and the
pool takes them back when it needs theirs. One is started at a time, so that tasks do not feel it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog

from agent.containers.container import Container
from agent.containers.engine import EngineError, EngineUnavailable
from agent.containers.freezer import Freezer
from agent.containers.pool import NoRoom, Pool
from agent.containers.readiness import until_ready
from agent.protocol import Revision

log = structlog.get_logger()

LOOK_SECONDS = 1.0

RETRY_SECONDS = 2.0
"""After a start that failed the next one waits for so long, then twice as long, and so on."""

LONGEST_RETRY = 60.0


class CannotPrewarm(Exception):
    """This node has no container of such a function ready; the text says why."""


class Prewarm:
    """Keeps as many idle containers of each wanted revision as it asks for.

    Args:
        start: Starts a container of a revision; raises `CannotPrewarm` where the image is not here, or the node does
            not run such a function.
        start_timeout: Seconds that a container may take until it is ready.
        freezer: Whether containers stand still.
    """

    def __init__(
        self,
        pool: Pool,
        start: Callable[[Revision], Awaitable[Container]],
        start_timeout: float,
        freezer: Freezer,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._start = start
        self._start_timeout = start_timeout
        self._freezer = freezer
        self._monotonic = monotonic
        self._wanted: dict[str, Revision] = {}
        self._failures: dict[str, tuple[int, float]] = {}
        """How often a revision's start has failed, and when it is tried again."""
        self._changed = asyncio.Event()

    def want(self, revisions: Sequence[Revision]) -> None:
        """Say of which revisions containers are kept ready from now on; others age as idle ones do."""
        self._wanted = {revision.key: revision for revision in revisions if _can_wait(revision)}
        self._failures = {key: failure for key, failure in self._failures.items() if key in self._wanted}
        self._pool.reserve({key: revision.warm for key, revision in self._wanted.items()})
        self._changed.set()

    async def run(self) -> None:
        """Start what is missing, until cancelled."""
        while True:
            self._changed.clear()
            for revision in list(self._wanted.values()):
                if revision.key in self._wanted:
                    await self._fill(revision)
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _fill(self, revision: Revision) -> None:
        failed, again = self._failures.get(revision.key, (0, 0.0))
        if self._monotonic() < again:
            return
        while self._pool.idle(revision.key) < revision.warm and self._pool.has_spare(revision.memory):
            try:
                await self._make_one(revision)
            except CannotPrewarm as reason:
                log.info("no container kept ready", revision=revision.key, reason=str(reason))
            except (EngineError, EngineUnavailable, NoRoom) as error:
                log.warning("no container kept ready", revision=revision.key, reason=str(error))
            else:
                self._failures.pop(revision.key, None)
                continue
            wait = min(RETRY_SECONDS * 2**failed, LONGEST_RETRY)
            self._failures[revision.key] = (failed + 1, self._monotonic() + wait)
            return

    async def _make_one(self, revision: Revision) -> None:
        begun = self._monotonic()
        container = await self._start(revision)
        ready = False
        try:
            outcome = await until_ready(container, revision.ready_path, self._start_timeout, self._freezer)
            if outcome != "ready":
                raise CannotPrewarm("the server ended" if outcome == "ended" else "the server was not ready in time")
            ready = container.ready = True
            self._pool.waiting.cold_starts.note(revision.key, self._monotonic() - begun)
        finally:
            if ready:
                self._pool.give_back(container)
            else:
                self._pool.retire(container)


def _can_wait(revision: Revision) -> bool:
    return revision.mode == "http" and revision.reuse and revision.warm > 0 and bool(revision.image)
