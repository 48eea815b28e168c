"""What many ask for at a time and is costly to make: made once for all who ask within a short time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Fresh(Generic[T]):
    """Values by key that are never older than so many seconds.

    Args:
        seconds: How long a value is given to whoever asks.
    """

    def __init__(self, seconds: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._monotonic = monotonic
        self._made: dict[str, tuple[float, asyncio.Future[T]]] = {}

    async def get(self, key: str, make: Callable[[], Awaitable[T]]) -> T:
        """Give the value of a key; ``make`` makes it, unless it was made, or is being made, just now."""
        now = self._monotonic()
        for old in [key for key, (until, _) in self._made.items() if until <= now]:
            del self._made[old]
        if key not in self._made:
            making = asyncio.ensure_future(make())
            making.add_done_callback(lambda made: self._forget_failed(key, made))
            self._made[key] = (now + self._seconds, making)
        # Who gives up waiting does not take it from the others.
        return await asyncio.shield(self._made[key][1])

    def _forget_failed(self, key: str, made: asyncio.Future[T]) -> None:
        if (made.cancelled() or made.exception() is not None) and self._made.get(key, (0, None))[1] is made:
            del self._made[key]
