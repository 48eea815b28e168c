"""Keeps the service manager informed: ready once, the status whenever it changes, alive as long as nothing has stalled.

    looks every second until it is ready, then several times within the watchdog's time
    stalled in two looks one after the other ──> no sign of life any more, and a word to be restarted at once

Two looks, because a machine that stood still as a whole makes everything look stalled when it goes on. And an event
loop that stands still gives no sign of life by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from agent.systemd import ServiceManager

STARTING_SECONDS = 1.0
"""Between two looks until the service is ready."""

LONGEST_SECONDS = 5.0
"""Between two looks, at most: so old the status can be."""

START_SECONDS = 90.0
"""A service that is not ready yet asks for so much more time at each look: as the unit's TimeoutStartSec."""

log = structlog.get_logger()


class Service(Protocol):
    """What runs as a service: a node, or a dispatcher."""

    @property
    def is_up(self) -> bool:
        """It does what it is for, or did so since it was started."""

    @property
    def stop_seconds(self) -> float | None:
        """It has been told to stop, which may take so long from now on; None: it has not."""

    def summary(self) -> str:
        """Say in a line how it is."""


class Reporter:
    """Tells the service manager of a service, until it is cancelled.

    Args:
        stalled: Names the control loops that should have made progress and did not.
    """

    def __init__(
        self,
        manager: ServiceManager,
        service: Service,
        stalled: Callable[[], Sequence[str]],
    ) -> None:
        self._manager = manager
        self._service = service
        self._stalled = stalled
        self._told_ready = False
        self._told_stopping = False
        self._told = ""
        self._suspects: set[str] = set()

    @property
    def interval(self) -> float:
        """Seconds between two looks."""
        if not self._told_ready:
            return STARTING_SECONDS
        return min(LONGEST_SECONDS, (self._manager.watchdog_seconds or LONGEST_SECONDS * 4) / 4)

    async def run(self) -> None:
        """Look and tell, again and again."""
        while True:
            self.look()
            await asyncio.sleep(self.interval)

    def look(self) -> None:
        """Look once, and tell what is to be told."""
        stalled = set(self._stalled())
        both, self._suspects = stalled & self._suspects, stalled
        if both:
            log.error("control loops have stalled, the service asks to be restarted", loops=sorted(both))
            self._manager.stalled(f"stalled: {', '.join(sorted(both))}")
            return
        self._tell()
        if self._told_ready or self._told_stopping:
            self._manager.alive()
        if not self._told_ready and not self._told_stopping:
            self._manager.more_time(START_SECONDS)
        elif (stop_seconds := self._service.stop_seconds) is not None:
            self._manager.more_time(stop_seconds)

    def reloaded(self) -> None:
        """Say that a reload, of which the manager was told, is done."""
        self._manager.ready(self._service.summary())

    def _tell(self) -> None:
        status = self._service.summary()
        if self._service.stop_seconds is not None and not self._told_stopping:
            self._manager.stopping(status)
            self._told_stopping = True
        elif self._service.is_up and not self._told_ready and not self._told_stopping:
            self._manager.ready(status)
            self._told_ready = True
            log.info("service is ready", status=status)
        elif status != self._told:
            self._manager.status(status)
        self._told = status
