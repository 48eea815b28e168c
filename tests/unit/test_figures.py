"""Percentiles, cold share and errors of recent ends."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.protocol import Spans
from dispatcher.figures import Figures, Percentiles, figures
from dispatcher.store.records import RecentEnd


def end(running: float = 0, *, status: int = 200, error: str | None = None, cold: bool | None = None) -> RecentEnd:
    return RecentEnd(1_000, 1_100, 2_000, status, error, Spans(running=running), cold)


def test_nothing_says_nothing() -> None:
    """A function without finished tasks has no figures, and they are not 0."""
    assert figures([]) == Figures(0, None, None, {})


def test_percentiles_are_values_that_were_seen() -> None:
    """By nearest rank: of 100 values the 50th and the 95th, of one value that one."""
    found = figures([end(running) for running in range(100, 0, -1)])
    assert found.phases is not None
    assert found.phases.running == Percentiles(50, 95)
    assert found.phases.queued == Percentiles(100, 100)
    assert found.phases.total == Percentiles(1_000, 1_000)
    alone = figures([end(7)])
    assert alone.phases is not None
    assert alone.phases.running == Percentiles(7, 7)


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=50))
def test_so_many_lie_below(values: list[float]) -> None:
    """At least half of the values are at most p50, and 95 % of them are at most p95."""
    phases = figures([end(value) for value in values]).phases
    assert phases is not None
    assert sum(value <= phases.running.p50 for value in values) >= 0.5 * len(values)
    assert sum(value <= phases.running.p95 for value in values) >= 0.95 * len(values)


def test_the_cold_share_is_of_those_that_got_a_container() -> None:
    """A task that never came to a container is neither cold nor warm."""
    assert figures([end(cold=True), end(cold=False), end(cold=False), end(cold=None)]).cold_share == 1 / 3
    assert figures([end(cold=None)]).cold_share is None


def test_the_most_frequent_errors_are_named() -> None:
    """By code, or by the status that the function itself gave; answers below 400 are none."""
    ends = [end(status=504, error="TIMEOUT")] * 2 + [end(status=404), end(status=302), end()]
    assert figures(ends).errors == {"TIMEOUT": 2, "404": 1}


def test_a_clock_that_jumped_makes_no_negative_times() -> None:
    """Times are 0 where one that comes later lies before."""
    phases = figures([RecentEnd(5_000, 4_000, 3_000, 200, None, Spans(), None)]).phases
    assert phases is not None
    assert (phases.queued.p50, phases.total.p50) == (0, 0)
