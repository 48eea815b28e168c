"""What the heartbeats say about the way to the dispatcher: round trip and clock offset."""

from __future__ import annotations

import statistics
from collections import deque
from typing import NamedTuple

KEPT = 31
"""Samples that count: five minutes of heartbeats."""


CLOCK_SET_MS = 1000.0
"""An offset that differs from the one before by more, and by more than its round trip, means a clock that was set."""


class _Sample(NamedTuple):
    round_trip_ms: float
    offset_ms: float


class RoundTrips:
    """The last round trips of heartbeats, over reconnects."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque(maxlen=KEPT)
        self._offset_counts = 0
        """So many of the last samples were measured since a clock was set."""
        self.median_ms: float | None = None
        """The median round trip; None before the first."""

    def add(self, round_trip_ms: float, peer_wall_ms: float, wall_ms: float) -> None:
        """Take the answer to a heartbeat.

        Args:
            peer_wall_ms: The peer's clock in its answer.
            wall_ms: Our clock when the answer came.
        """
        sample = _Sample(round_trip_ms, peer_wall_ms - (wall_ms - round_trip_ms / 2))
        if self._samples:
            leap = abs(sample.offset_ms - self._samples[-1].offset_ms)
            if leap > CLOCK_SET_MS + round_trip_ms + self._samples[-1].round_trip_ms:
                self._offset_counts = 0
        self._samples.append(sample)
        self._offset_counts = min(self._offset_counts + 1, KEPT)
        # Asked for with each offer, so it is reckoned here.
        self.median_ms = round(statistics.median(each.round_trip_ms for each in self._samples), 3)

    @property
    def clock_offset_ms(self) -> float | None:
        """How far the dispatcher's clock is ahead of ours, by the quickest round trip, which says it best."""
        if not self._samples:
            return None
        return min(list(self._samples)[-self._offset_counts :]).offset_ms
