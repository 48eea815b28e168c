"""What the heartbeats say about the way to the dispatcher: round trip and clock offset."""

from __future__ import annotations

import statistics
from collections import deque
from typing import NamedTuple

KEPT = 31
"""Samples that count: five minutes of heartbeats."""


class _Sample(NamedTuple):
    round_trip_ms: float
    offset_ms: float


class RoundTrips:
    """The last round trips of heartbeats, over reconnects."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque(maxlen=KEPT)

    def add(self, round_trip_ms: float, peer_wall_ms: float, wall_ms: float) -> None:
        """Take the answer to a heartbeat.

        Args:
            peer_wall_ms: The peer's clock in its answer.
            wall_ms: Our clock when the answer came.
        """
        self._samples.append(_Sample(round_trip_ms, peer_wall_ms - (wall_ms - round_trip_ms / 2)))

    @property
    def median_ms(self) -> float | None:
        """The median round trip; None before the first."""
        if not self._samples:
            return None
        return round(statistics.median(sample.round_trip_ms for sample in self._samples), 3)

    @property
    def clock_offset_ms(self) -> float | None:
        """How far the dispatcher's clock is ahead of ours, by the quickest round trip, which says it best."""
        if not self._samples:
            return None
        return min(self._samples).offset_ms
