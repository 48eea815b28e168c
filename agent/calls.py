"""How long calls to something outside take, and how many fail: to a store, to an engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from agent.exposition import CALL_SECONDS, Histogram


class Calls:
    """The calls of one kind. Around each: ``with calls.timed(): …``.

    Args:
        failure: Names the kind of failure that an exception is; None where it is none.
        kinds: All that it can name.

    Attributes:
        seconds: From the question to the answer, the wait for a thread or a connection included.
        failures: Those that failed, by kind.
    """

    def __init__(self, failure: Callable[[BaseException], str | None], *kinds: str) -> None:
        self.seconds = Histogram(CALL_SECONDS)
        self.failures = dict.fromkeys(kinds, 0)
        self._failure = failure

    def timed(self) -> _Timed:
        """Time one call."""
        return _Timed(self)

    def failed(self, error: BaseException) -> None:
        """Count what a call raised, if that is a failure."""
        if (kind := self._failure(error)) is not None:
            self.failures[kind] += 1


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
        if error is not None:
            self._calls.failed(error)
