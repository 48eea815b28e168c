"""How long calls to a store take, and how many fail: for ``/metrics``."""

from __future__ import annotations

import time
from types import TracebackType

from agent.exposition import CALL_SECONDS, Histogram
from dispatcher.store.base import StoreUnavailable


class Calls:
    """The calls of one kind. Around each: ``with calls.timed(): …``.

    Attributes:
        seconds: From the question to the answer, the wait for a thread or a connection included.
        failures: Those that found the database away.
    """

    def __init__(self) -> None:
        self.seconds = Histogram(CALL_SECONDS)
        self.failures = 0

    def timed(self) -> _Timed:
        """Time one call."""
        return _Timed(self)


class StoreCalls:
    """The calls that read, and those that write and are answered when their write is committed."""

    def __init__(self) -> None:
        self.read = Calls()
        self.write = Calls()


class _Timed:
    __slots__ = ("_begun", "_calls")

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def __enter__(self) -> None:
        self._begun = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._calls.seconds.observe(time.perf_counter() - self._begun)
        if kind is not None and issubclass(kind, StoreUnavailable):
            self._calls.failures += 1
