"""Whether the containers of this node stand still, and the clocks that stand still with them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType


class Freezer:
    """The state of a pause of all containers: `agent.containers.pool` carries it out.

    A time limit of a function's counts the time in which it can run. Those made with `timeout` are stopped by
    `freeze`, before the first container is, and go on with `thaw`, after the last one does.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._since: float | None = None
        self._seconds = 0.0
        self._running = asyncio.Event()
        self._running.set()
        self._limits: set[Limit] = set()

    @property
    def frozen(self) -> bool:
        """The containers stand still, or are about to."""
        return self._since is not None

    @property
    def seconds(self) -> float:
        """For how long they have stood still in all."""
        return self._seconds + (self._monotonic() - self._since if self._since is not None else 0.0)

    async def until_thawed(self) -> None:
        """Wait until containers may run."""
        await self._running.wait()

    def freeze(self) -> None:
        """Stop the clocks."""
        if self._since is None:
            self._since = self._monotonic()
            self._running.clear()
            for limit in self._limits:
                limit.stop()

    def thaw(self) -> None:
        """Let the clocks go on."""
        if self._since is not None:
            self._seconds += self._monotonic() - self._since
            self._since = None
            self._running.set()
            for limit in self._limits:
                limit.go_on()

    def timeout(self, seconds: float) -> Limit:
        """Make a time limit, as `asyncio.timeout` does, that stands still when containers do."""
        return Limit(self._limits, seconds, stopped=self.frozen)


class Limit:
    """A time limit that can stand still."""

    def __init__(self, all_of_them: set[Limit], seconds: float, *, stopped: bool) -> None:
        self._all = all_of_them
        self._left = seconds
        self._stopped = stopped
        self._timeout = asyncio.timeout(None if stopped else seconds)

    async def __aenter__(self) -> None:
        """Begin to count."""
        await self._timeout.__aenter__()
        self._all.add(self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; raises TimeoutError where the time was over."""
        self._all.discard(self)
        await self._timeout.__aexit__(kind, error, trace)

    def stop(self) -> None:
        """Stand still."""
        when = self._timeout.when()
        if not self._timeout.expired() and when is not None:
            self._left = max(0.0, when - asyncio.get_running_loop().time())
            self._timeout.reschedule(None)
            self._stopped = True

    def go_on(self) -> None:
        """Count again, from where it stood."""
        if self._stopped and not self._timeout.expired():
            self._stopped = False
            self._timeout.reschedule(asyncio.get_running_loop().time() + self._left)
