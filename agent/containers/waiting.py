"""Whether a task waits for a busy container of its revision or has another one started: whichever is quicker.

To start one takes a fraction of a second in which the machine is busy; many functions answer in a hundredth of that. So
running averages are kept of both, and a task waits while the wait is expected to be shorter than a start. Where that
turns out wrong it has lost no more than one start: then it gets a container of its own after all.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable

from agent.containers.averages import Averages
from agent.containers.container import Container


class Waiting:
    """The tasks that wait, by revision, first come first served.

    Args:
        give_back: Takes a container that was handed to a task which is gone.

    Attributes:
        cold_starts: Seconds from the start of a container until it was ready.
        services: Seconds that a request took in a container.
    """

    def __init__(self, give_back: Callable[[Container], None]) -> None:
        self.cold_starts = Averages()
        self.services = Averages()
        self._give_back = give_back
        self._queues: defaultdict[str, deque[asyncio.Future[Container]]] = defaultdict(deque)

    def patience(self, revision: str, places: int) -> float | None:
        """Say how long a task should wait at most; None where to wait is not expected to be quicker than a start.

        Args:
            places: Tasks that the busy containers of the revision work for at a time.
        """
        start, service = self.cold_starts.get(revision), self.services.get(revision)
        if start is None or service is None or places == 0:
            return None
        before = len(self._queues[revision]) if revision in self._queues else 0
        return start if service * (before + 1) / places < start else None

    async def wait(self, revision: str, seconds: float) -> Container | None:
        """Wait for `hand_over`; None where it did not come in time."""
        queue = self._queues[revision]
        given: asyncio.Future[Container] = asyncio.get_running_loop().create_future()
        queue.append(given)
        try:
            await asyncio.wait({given}, timeout=seconds)
        except asyncio.CancelledError:
            if given.done():
                self._give_back(given.result())
            raise
        finally:
            if not given.done():
                queue.remove(given)
            if not queue:
                self._queues.pop(revision, None)
        return given.result() if given.done() else None

    def hand_over(self, container: Container) -> bool:
        """Give a place in a container to the task that has waited longest; False where none waits."""
        queue = self._queues.get(container.spec.revision)
        if not queue:
            return False
        queue.popleft().set_result(container)
        return True
