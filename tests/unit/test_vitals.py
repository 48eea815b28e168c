"""Which control loops made progress, and which have stalled."""

from __future__ import annotations

from agent.vitals import DUE_SECONDS, Loop, Vitals


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_each_loop_stalls_after_its_own_time() -> None:
    """One that goes on saying that it works does not hide one that does not."""
    clock = Clock()
    vitals = Vitals(clock)
    loops: list[Loop] = list(DUE_SECONDS)
    for loop in loops:
        vitals.beat(loop)
    for _ in range(700):
        clock.now += 1
        vitals.beat("containers")
        since = clock.now - 1000.0
        assert vitals.stalled() == [loop for loop in loops if loop != "containers" and since > DUE_SECONDS[loop]]
    vitals.beat("overdue")
    assert "overdue" not in vitals.stalled()


def test_a_loop_may_say_that_it_takes_longer_once() -> None:
    """A wait that is longer than usual is no stall; the next progress counts as usual again."""
    clock = Clock()
    vitals = Vitals(clock)
    vitals.beat("link", due=3600)
    assert vitals.stalled(clock.now + 3600) == []
    assert vitals.stalled(clock.now + 3601) == ["link"]
    vitals.beat("link", due=1)
    assert vitals.stalled(clock.now + 90) == []
    assert vitals.stalled(clock.now + 91) == ["link"]


def test_a_loop_that_ended_is_not_missed() -> None:
    """There is no heartbeat without a session, and none of a node that stops."""
    clock = Clock()
    vitals = Vitals(clock)
    vitals.beat("heartbeat")
    vitals.beat("journal")
    vitals.rest("heartbeat")
    vitals.rest("heartbeat")
    clock.now += 2.04
    (line,) = vitals.board()
    assert (line.name, line.seconds, line.stalled) == ("journal", 2.0, False)
    clock.now += 3600
    assert [line.stalled for line in vitals.board()] == [True]
    vitals.rest()
    assert vitals.stalled() == []
    assert vitals.board() == []
