"""How long a call's output is waited for after its answer."""

from __future__ import annotations

from agent.containers.container import SETTLE_AT_MOST, SETTLE_SECONDS, Container
from agent.containers.engine import Engine
from agent.containers.spec import ContainerSpec


class Written:
    """A container whose clock goes on by a millisecond with each look at it, and what a function in it writes."""

    def __init__(self) -> None:
        self.now = 0.0
        self._writes_at: float | None = None
        spec = ContainerSpec(image="i", mode="http", node="n", function="f", revision="f.1")
        self.container = Container(Engine(), "fernd-f.1-0", spec, self._monotonic)

    def _monotonic(self) -> float:
        self.now += 0.001
        if self._writes_at is not None and self.now >= self._writes_at:
            self._writes_at = None
            self.container.expect_output()
        return self.now

    async def call(self, output_after: float | None) -> float:
        """Call the function, which answers at once; give how long its output was waited for.

        Args:
            output_after: Seconds from the answer until its output comes; None: there is none.
        """
        self.container.begin_call()
        begun = self.now
        self._writes_at = None if output_after is None else begun + output_after
        await self.container.settle()
        return self.now - begun


async def test_late_output_is_waited_for_where_the_last_call_had_some() -> None:
    """On a busy machine it takes the engine longer to pass output on than the function to answer."""
    written, late = Written(), 10 * SETTLE_SECONDS
    await written.call(0.0)
    assert late < await written.call(late) < SETTLE_AT_MOST
    assert late < await written.call(late) < SETTLE_AT_MOST


async def test_a_call_without_output_is_waited_for_once() -> None:
    """A function that writes now and then does not pay for it in each call."""
    written = Written()
    await written.call(0.0)
    assert await written.call(None) >= SETTLE_AT_MOST
    assert await written.call(None) < 3 * SETTLE_SECONDS


async def test_a_silent_function_is_not_waited_for() -> None:
    """Once its first call is over, not a moment."""
    written = Written()
    await written.call(None)
    assert await written.call(None) <= 0.001
