"""The heartbeat board: when each control loop of the node last made progress, and which of them have stalled.

A process that is there is no proof of one that works. Each loop says here that it got on, and by when it will have
got on again; `fernd agent status` shows it, and a watchdog can go by it. A loop that waits for something that cannot
be hurried, such as an engine that is away, is alive as long as it asks again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from agent.status import LoopStatus

Loop = Literal["link", "heartbeat", "engine", "journal", "overdue", "owner", "containers", "memory"]

DUE_SECONDS: dict[Loop, float] = {
    "link": 90.0,  # a session that hears nothing ends after 25 s; between two tries lie up to 60 s, and the try itself
    "heartbeat": 40.0,  # every 10 s; one that cannot be sent ends the session after 25 s
    "engine": 60.0,  # asked every 10 s, with 10 s for the answer
    "journal": 60.0,  # looked at every 5 s; a slow card may take its time
    "overdue": 30.0,  # every 5 s
    "owner": 180.0,  # every 5 s; where containers are frozen, with a call to the engine for each
    "memory": 120.0,  # every 10 s, if there was work
    "containers": 600.0,  # every second; with an engine that hardly answers, many calls of up to a minute each
}
"""So long after its last progress a loop that said nothing else has stalled."""


class Vitals:
    """Who made progress, and when.

    A machine that stood still as a whole (a paused virtual machine, a stopped process) makes every loop look stalled
    for a moment when it goes on. Whoever acts on `stalled` should look twice, some seconds apart.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._last: dict[Loop, tuple[float, float]] = {}
        """When a loop made progress, and in how many seconds from then it is due again."""

    def beat(self, loop: Loop, due: float = 0.0) -> None:
        """Say that a loop made progress.

        Args:
            due: It may take so many seconds to the next time, where that is more than usual.
        """
        self._last[loop] = (self._monotonic(), max(due, DUE_SECONDS[loop]))

    def rest(self, *loops: Loop) -> None:
        """Say that loops have ended, as they should; without a name: that all have."""
        for loop in loops or tuple(self._last):
            self._last.pop(loop, None)

    def stalled(self, now: float | None = None) -> list[Loop]:
        """Name the loops that should have made progress by now, and did not."""
        now = self._monotonic() if now is None else now
        return [loop for loop, (at, due) in self._last.items() if now - at > due]

    def board(self) -> list[LoopStatus]:
        """Say of each loop that runs when it last made progress."""
        now = self._monotonic()
        stalled = set(self.stalled(now))
        return [LoopStatus(loop, round(now - at, 1), loop in stalled) for loop, (at, _) in self._last.items()]
