"""How often something may fail. Pure, but for the clock that it is given."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

BURST = 10
"""Failures in a row that are let pass."""

REFILL_SECONDS = 6.0
"""After so long one more is let pass."""

KNOWN = 10_000
"""Addresses that are remembered; beyond them the one that failed longest ago is forgotten."""


class Throttle:
    """Counts failures by address: `BURST` at once, and later one every `REFILL_SECONDS`.

    Args:
        monotonic: Gives seconds.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._clear_at: OrderedDict[str, float] = OrderedDict()
        """When all failures of an address will be forgotten, the one that failed last at the end."""

    def wait(self, address: str) -> float:
        """Say for how many seconds an address must wait before it may try; 0 where it may."""
        ahead = self._clear_at.get(address, 0.0) - self._monotonic()
        return max(0.0, ahead - (BURST - 1) * REFILL_SECONDS)

    def failed(self, address: str) -> None:
        """Remember a failure."""
        now = self._monotonic()
        self._clear_at[address] = max(now, self._clear_at.get(address, 0.0)) + REFILL_SECONDS
        self._clear_at.move_to_end(address)
        while self._clear_at and (len(self._clear_at) > KNOWN or next(iter(self._clear_at.values())) <= now):
            self._clear_at.popitem(last=False)
