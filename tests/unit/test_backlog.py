from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.backlog import LONGEST_SECONDS, UNKNOWN_SECONDS, Backlog, QueueFull


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def retry_after(backlog: Backlog, account: str = "a") -> int:
    with pytest.raises(QueueFull) as full:
        backlog.check_room(account)
    return full.value.retry_after


def test_the_whole_queue_and_an_account_are_full_apart() -> None:
    """An account at its limit is told so and others are not; when all together wait, everybody is told that."""
    backlog = Backlog(10, {"small": 2}.get, Clock())
    backlog.came("small", 2)
    with pytest.raises(QueueFull, match="2 tasks of this account wait"):
        backlog.check_room("small")
    backlog.check_room("large")
    backlog.came("large", 8)
    with pytest.raises(QueueFull, match="of all accounts together"):
        backlog.check_room("large")
    backlog.went("small")
    backlog.check_room("small")


def test_who_is_turned_away_comes_back_when_a_tenth_has_gone() -> None:
    """The time is reckoned from how fast tasks went in the last seconds, of all or of the account, within bounds."""
    clock = Clock()
    backlog = Backlog(1000, {"small": 100}.get, clock)
    backlog.came("large", 1900)
    assert retry_after(backlog) == UNKNOWN_SECONDS
    for _ in range(30):
        clock.now += 1
        backlog.went("large", 20)
    assert retry_after(backlog) == 5
    clock.now += 1000
    assert retry_after(backlog) == UNKNOWN_SECONDS
    backlog.went("large", 1)
    assert retry_after(backlog) == LONGEST_SECONDS
    backlog.recounted([("small", 80), ("large", 100), ("small", 35)])
    assert retry_after(backlog, "small") == UNKNOWN_SECONDS
    backlog.went("small", 10)
    clock.now += 1
    assert retry_after(backlog, "small") == 1


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(-5, 5))))
def test_nothing_is_counted_twice_or_below_zero(changes: list[tuple[str, int]]) -> None:
    """The sum is that of the accounts, whatever others tell of tasks that were never known here."""
    backlog = Backlog(10, {"a": 3}.get, Clock())
    known = {"a": 0, "b": 0}
    for account, change in changes:
        if change > 0:
            backlog.came(account, change)
        else:
            backlog.went(account, -change)
        known[account] = max(0, known[account] + change)
        assert {name: backlog.of(name) for name in known} == known
        assert backlog.total == sum(known.values())
