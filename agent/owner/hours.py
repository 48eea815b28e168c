"""PURE. Hours of the week as an owner writes them: ``mon-fri 18:00-08:00``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_MINUTES = 24 * 60
_RANGE = re.compile(r"([0-9]{1,2}):([0-9]{2})-([0-9]{1,2}):([0-9]{2})", re.ASCII)


class Hours(Struct, frozen=True):
    """A range of each of some days, which may go over midnight; it belongs to the day on which it begins.

    Attributes:
        days: Monday is 0.
        begin: Minute of the day.
        end: The first minute after it; not after `begin` where it goes over midnight.
    """

    days: frozenset[int]
    begin: int
    end: int

    def hold(self, local: datetime) -> bool:
        """Say whether a moment is within them."""
        minute, day = local.hour * 60 + local.minute, local.weekday()
        if self.begin < self.end:
            return day in self.days and self.begin <= minute < self.end
        return (day in self.days and minute >= self.begin) or ((day - 1) % 7 in self.days and minute < self.end)


def parse(text: str) -> Hours:
    """Read hours: days or ranges of days if not every day is meant, then the time.

    Raises:
        ValueError: They are not written so.
    """
    *days, times = text.lower().split() or [""]
    found = _RANGE.fullmatch(times)
    if found is None:
        raise _wrong(text)
    begin, end = int(found[1]) * 60 + int(found[2]), int(found[3]) * 60 + int(found[4])
    if begin >= _DAY_MINUTES or end > _DAY_MINUTES or begin == end or max(found[2], found[4]) >= "60":
        raise _wrong(text)
    every = frozenset(range(7))
    return Hours(frozenset().union(*(_days(each, text) for each in days)) if days else every, begin, end)


def any_hold(hours: Sequence[Hours], local: datetime) -> bool:
    """Say whether a moment is within any of them."""
    return any(each.hold(local) for each in hours)


def _days(word: str, text: str) -> frozenset[int]:
    first, dash, last = word.partition("-")
    if first not in DAYS or (dash and last not in DAYS):
        raise _wrong(text)
    begin = DAYS.index(first)
    count = (DAYS.index(last) - begin) % 7 + 1 if dash else 1
    return frozenset((begin + more) % 7 for more in range(count))


def _wrong(text: str) -> ValueError:
    return ValueError(f"hours: {text!r}: expected such as 22:00-06:00, mon-fri 18:00-08:00 or sat sun 00:00-24:00")
