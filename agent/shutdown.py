"""How a node ends: it finishes what runs and delivers it, within the grace period; what is left is given back."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from agent.assignments import Assignments
from agent.link import LEAVE_SECONDS, Link

ABORT_SECONDS = 10.0
"""Aborted work gets so long to end, beyond ``stop_grace_max``."""


class Shutdown:
    """The end of a node, from the moment that somebody asks for it.

    Args:
        grace_period: Seconds for what runs to finish and to be delivered.
        stop_grace_max: Seconds between the signal to a function and its kill, at most.

    Attributes:
        asked: Set when somebody asked for it.
        grace_period: As above; changed before `run`, it holds.
    """

    def __init__(self, grace_period: float, stop_grace_max: float) -> None:
        self.asked = asyncio.Event()
        self.grace_period = grace_period
        self._abort_seconds = stop_grace_max + ABORT_SECONDS
        self._abort_asked = asyncio.Event()
        self._log = structlog.get_logger()

    @property
    def longest(self) -> float:
        """Seconds that `run` may take."""
        return self.grace_period + self._abort_seconds + LEAVE_SECONDS

    def ask(self) -> None:
        """Ask for a drain; asked a second time: for an abort."""
        if self.asked.is_set():
            self._abort_asked.set()
        self.asked.set()

    async def run(self, link: Link, assignments: Assignments) -> None:
        """Finish what runs and deliver it; then say goodbye. At the end of the grace period, or when asked: abort."""
        self._log.info("node drains", running=assignments.running, grace_period=self.grace_period)
        assignments.drain()
        if await self._in_time(assignments.until_empty()):
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

    async def _in_time(self, work: Coroutine[Any, Any, None]) -> bool:
        """Say whether work was done within the grace period and before an abort was asked for."""
        tasks = [asyncio.create_task(work), asyncio.create_task(self._abort_asked.wait())]
        try:
            await asyncio.wait(tasks, timeout=self.grace_period, return_when=asyncio.FIRST_COMPLETED)
            return tasks[0].done()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
