"""How many tasks wait, of each account and in all, how fast they go, and whether another is taken. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from math import ceil

WINDOW_SECONDS = 10.0
"""How fast tasks go is reckoned from the last one to two of these."""

ROOM = 0.1
"""Asking again is worth the while when so much of what may wait has gone: who was turned away is not alone."""

UNKNOWN_SECONDS = 10
"""Asking again is worth the while after so long where nothing went lately."""

LONGEST_SECONDS = 60


class QueueFull(Exception):
    """No more tasks are taken for now; the text says of whom.

    Attributes:
        retry_after: Seconds after which asking again is worth the while.
    """

    def __init__(self, detail: str, retry_after: int) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class Flow:
    """How many tasks go in a second, by those that went lately."""

    def __init__(self, now: float) -> None:
        self._begun = now
        self._gone = 0
        self._gone_before: int | None = None
        """In the window before this one; None where there was none."""

    def went(self, count: int, now: float) -> None:
        """Note that tasks went."""
        self._turn(now)
        self._gone += count

    def rate(self, now: float) -> float:
        """Say how many go in a second."""
        self._turn(now)
        if self._gone_before is None:
            return self._gone / max(1.0, now - self._begun)
        return (self._gone_before + self._gone) / (WINDOW_SECONDS + now - self._begun)

    def _turn(self, now: float) -> None:
        windows = int((now - self._begun) / WINDOW_SECONDS)
        if windows > 0:
            self._gone_before = self._gone if windows == 1 else 0
            self._gone = 0
            self._begun += windows * WINDOW_SECONDS


class Backlog:
    """The tasks that wait, as far as is known here.

    Args:
        most: Tasks that may wait in all.
        most_of: Says how many of an account's may wait; None where only all together are limited.
        monotonic: The clock, in seconds.
    """

    def __init__(self, most: int, most_of: Callable[[str], int | None], monotonic: Callable[[], float]) -> None:
        self.total = 0
        self._most = most
        self._most_of = most_of
        self._monotonic = monotonic
        self._waiting: Counter[str] = Counter()
        self._flow = Flow(monotonic())
        self._flows: dict[str, Flow] = {}
        """Of those accounts alone that have a limit, and tasks that wait."""

    def of(self, account: str) -> int:
        """Say how many of an account's wait."""
        return self._waiting[account]

    def came(self, account: str, count: int = 1) -> None:
        """Note that more wait."""
        self.total += count
        self._waiting[account] += count

    def went(self, account: str, count: int = 1) -> None:
        """Note that fewer wait."""
        now = self._monotonic()
        self._flow.went(count, now)
        left = self._waiting[account] - count
        self.total -= count + min(0, left)  # by no more than were known
        if left <= 0:
            del self._waiting[account]
            self._flows.pop(account, None)
            return
        self._waiting[account] = left
        if self._most_of(account) is not None:
            self._flows.setdefault(account, Flow(now)).went(count, now)

    def recounted(self, counted: Iterable[tuple[str, int]]) -> None:
        """Take over how many wait, by account; one may come several times."""
        self._waiting.clear()
        for account, count in counted:
            self._waiting[account] += count
        self.total = self._waiting.total()
        self._flows = {account: flow for account, flow in self._flows.items() if self._waiting[account]}

    def check_room(self, account: str) -> None:
        """Return if another task of an account would be taken.

        Raises:
            QueueFull: Too many wait.
        """
        if self.total >= self._most:
            raise QueueFull(
                f"{self._most} tasks wait, of all accounts together: no more are taken for now",
                self._retry_after(self._most, self._flow),
            )
        most = self._most_of(account)
        if most is not None and self._waiting[account] >= most:
            raise QueueFull(
                f"{most} tasks of this account wait, which is its limit: no more of it are taken for now",
                self._retry_after(most, self._flows.get(account)),
            )

    def _retry_after(self, most: int, flow: Flow | None) -> int:
        rate = flow.rate(self._monotonic()) if flow is not None else 0.0
        if rate == 0:
            return UNKNOWN_SECONDS
        return max(1, min(LONGEST_SECONDS, ceil(most * ROOM / rate)))
