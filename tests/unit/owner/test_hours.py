"""Hours of the week, also over midnight."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.owner.hours import DAYS, any_hold, parse

MONDAY = datetime(2026, 11, 30)  # noqa: DTZ001 - the owner's zone is put on elsewhere


def at(day: str, time: str) -> datetime:
    hour, minute = map(int, time.split(":"))
    return MONDAY + timedelta(days=DAYS.index(day), hours=hour, minutes=minute)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("22:00-06:00", ["mon 22:00", "tue 05:59", "sun 23:59", "mon 00:00"], ["mon 06:00", "mon 21:59"]),
        ("mon-fri 18:00-08:00", ["fri 18:00", "sat 07:59", "tue 03:00"], ["sat 18:00", "sun 03:00", "mon 07:59"]),
        ("sat sun 00:00-24:00", ["sat 00:00", "sun 23:59"], ["fri 23:59", "mon 00:00"]),
        ("fri-mon 10:00-12:00", ["fri 10:00", "sun 11:00", "mon 11:59"], ["tue 11:00", "mon 12:00"]),
        ("SUN 9:00-24:00", ["sun 09:00", "sun 23:59"], ["mon 00:00"]),
    ],
)
def test_when_they_hold(text: str, inside: list[str], outside: list[str]) -> None:
    """A range belongs to the day on which it begins, its end is the first minute after it."""
    hours = [parse(text)]
    assert [moment for moment in inside if not any_hold(hours, at(*moment.split()))] == []
    assert [moment for moment in outside if any_hold(hours, at(*moment.split()))] == []


@pytest.mark.parametrize(
    "text", ["", "22-6", "22:00", "25:00-26:00", "10:60-11:00", "08:00-08:00", "moon 08:00-09:00", "mon, 8:00-9:00"]
)
def test_what_is_no_range(text: str) -> None:
    """It is refused with how it would be written."""
    with pytest.raises(ValueError, match="expected such as"):
        parse(text)


@given(st.integers(0, 1439), st.integers(0, 1439), st.integers(0, 7 * 1440 - 1))
def test_a_range_and_the_rest_of_the_day_are_the_whole(begin: int, end: int, minute: int) -> None:
    """Exactly one of a range and its opposite holds at any minute of the week."""
    if begin == end:
        return
    moment = MONDAY + timedelta(minutes=minute)

    def clock(minutes: int) -> str:
        return f"{minutes // 60:02}:{minutes % 60:02}"

    one, other = parse(f"{clock(begin)}-{clock(end)}"), parse(f"{clock(end)}-{clock(begin)}")
    assert one.hold(moment) is not other.hold(moment)
