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


@pytest.mark.parametrize("jump", [400 * 86_400_000, -400 * 86_400_000])
def test_a_clock_that_was_set_shows_at_once(jump: int) -> None:
    """Offsets from before do not count any more, however quick their round trips were; the round trips still do."""
    trips = RoundTrips()
    for wall in range(0, 100_000, 10_000):
        trips.add(1.0, peer_wall_ms=wall, wall_ms=wall)
    assert trips.clock_offset_ms == pytest.approx(0, abs=1)
    trips.add(50.0, peer_wall_ms=100_000, wall_ms=100_000 + jump)
    assert trips.clock_offset_ms == pytest.approx(-jump, abs=50)
    for wall in range(110_000, 110_000 + KEPT * 10_000, 10_000):
        trips.add(5.0, peer_wall_ms=wall, wall_ms=wall + jump)
    assert trips.clock_offset_ms == pytest.approx(-jump, abs=5)
    assert trips.median_ms == 5
