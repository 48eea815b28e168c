"""Round trips and clock offset."""

from __future__ import annotations

import pytest

from agent.round_trip import KEPT, RoundTrips


def test_the_median_of_the_last_samples_counts() -> None:
    """One slow heartbeat does not change the figure, and old ones are forgotten."""
    trips = RoundTrips()
    assert trips.median_ms is None
    assert trips.clock_offset_ms is None
    for value in (5.0, 900.0, 7.0):
        trips.add(value, 0, 0)
    assert trips.median_ms == 7
    for _ in range(KEPT):
        trips.add(1.0, 0, 0)
    assert trips.median_ms == 1


def test_the_quickest_sample_gives_the_offset() -> None:
    """The dispatcher's clock, 5 s ahead, is read most exactly from the shortest round trip."""
    trips = RoundTrips()
    trips.add(400.0, peer_wall_ms=105_000, wall_ms=100_390)
    trips.add(2.0, peer_wall_ms=105_000, wall_ms=100_001)
    assert trips.clock_offset_ms == pytest.approx(5000)
