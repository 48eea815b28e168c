"""How a node ends: what runs finishes, its outcome is delivered, and what is left by then is given back.

    drain ──> all work has ended ──> all is delivered ──> goodbye
      └───────────────┴── grace period over, or asked again ──> abort ──> what runs is given back

What runs ends by its function's own timeout, so the grace period is the most that a drain takes, and seldom what it
takes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from agent.assignments import Assignments
from agent.link import LEAVE_SECONDS, Link

DELIVERY_SECONDS = 30.0
"""For the dispatcher to acknowledge what has ended. What it does not is in the journal, for the next run."""

ABORT_SECONDS = 10.0
"""Aborted work gets so long to end, beyond ``stop_grace_max``."""


class Shutdown:
    """The end of a node, from the moment that somebody asks for it.

    Args:
        grace_period: Seconds for what runs to finish and to be delivered, at most.
        stop_grace_max: Seconds between the signal to a function and its kill, at most.

    Attributes:
        asked: Set when somebody asked for it.
        grace_period: As above; changed before somebody asks, it holds.
    """

    def __init__(
        self, grace_period: float, stop_grace_max: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.asked = asyncio.Event()
        self.grace_period = grace_period
        self._abort_seconds = stop_grace_max + ABORT_SECONDS
        self._abort_asked = asyncio.Event()
        self._grace_ends = 0.0
        self._monotonic = monotonic
        self._log = structlog.get_logger()

    def longest(self, work: float) -> float:
        """Give the seconds that a shutdown which was asked for may still take.

        Args:
            work: Seconds until what runs has ended by itself, at most.
        """
        return min(work + DELIVERY_SECONDS, self._grace_left) + self._abort_seconds + LEAVE_SECONDS

    def ask(self) -> None:
        """Ask for a drain; asked a second time: for an abort."""
        if self.asked.is_set():
            self._abort_asked.set()
        else:
            self._grace_ends = self._monotonic() + self.grace_period
        self.asked.set()

    async def run(self, link: Link, assignments: Assignments) -> None:
        """Finish what runs and deliver it; then say goodbye. At the end of the grace period, or when asked: abort."""
        self._log.info("node drains", running=assignments.running, seconds=round(self.longest(assignments.time_left())))
        assignments.drain()
        if await self._in_time(assignments.until_idle(), self._grace_left) and await self._in_time(
            assignments.until_empty(), min(DELIVERY_SECONDS, self._grace_left)
        ):
            await link.leave("drained", goodbye=True)
            return
        await self._abort(assignments)
        # What was given back, and outcomes that came in time, leave with the session's last frames. Without
        # a goodbye, which would say that nothing is held, if the dispatcher has not acknowledged them all.
        await link.leave("aborted", goodbye=not len(assignments))

    async def _abort(self, assignments: Assignments) -> None:
        self._log.warning("node aborts what runs", running=assignments.running)
        assignments.abort()
        try:
            async with asyncio.timeout(self._abort_seconds):
                await assignments.until_idle()
        except TimeoutError:
            self._log.error("work did not end when it was told to", running=assignments.running)

    @property
    def _grace_left(self) -> float:
        return 0.0 if self._abort_asked.is_set() else max(0.0, self._grace_ends - self._monotonic())

    async def _in_time(self, work: Coroutine[Any, Any, None], seconds: float) -> bool:
        """Say whether work was done within so many seconds, and before an abort was asked for."""
        tasks = [asyncio.create_task(work), asyncio.create_task(self._abort_asked.wait())]
        try:
            await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            return tasks[0].done()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
