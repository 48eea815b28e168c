"""How often something may fail."""

from __future__ import annotations

from dispatcher.throttle import BURST, KNOWN, REFILL_SECONDS, Throttle


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_failures_in_a_row_must_wait_and_later_need_not() -> None:
    """After a burst an address waits for one refill; others do not; in the end all is forgotten."""
    clock = Clock()
    throttle = Throttle(clock)
    for _ in range(BURST):
        assert throttle.wait("a") == 0
        throttle.failed("a")
    assert throttle.wait("a") == REFILL_SECONDS
    assert throttle.wait("b") == 0
    clock.now += REFILL_SECONDS
    assert throttle.wait("a") == 0
    throttle.failed("a")
    assert throttle.wait("a") == REFILL_SECONDS
    clock.now += BURST * REFILL_SECONDS
    throttle.failed("b")
    assert list(throttle._clear_at) == ["b"]


def test_memory_is_bounded() -> None:
    """However many addresses fail, few are remembered: those that failed last."""
    throttle = Throttle(Clock())
    for number in range(KNOWN + 10):
        throttle.failed(str(number))
    assert len(throttle._clear_at) == KNOWN
    assert str(KNOWN + 9) in throttle._clear_at
