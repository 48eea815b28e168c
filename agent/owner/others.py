"""How much of the CPUs others than this node use."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import psutil

WINDOW_SECONDS = 15.0
"""A burst that is much shorter than this hardly shows."""


class OthersLoad:
    """Percent of all CPUs that is used by what is neither the agent, nor its children, nor a function.

    The engine's own work for this node (pulling an image, starting a container) counts as others'.

    Args:
        functions: Gives the CPU seconds that each container of this node has used so far, by its name; None where
            that cannot be told, and then the load of others cannot be told either.
    """

    def __init__(
        self,
        functions: Callable[[], Mapping[str, float] | None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._functions = functions
        self._monotonic = monotonic
        self._agent = psutil.Process()
        self._last: tuple[float, float, float, Mapping[str, float]] | None = None
        self._smooth: float | None = None

    def read(self) -> float | None:
        """Look, and give the load since about `WINDOW_SECONDS` ago; None at first, and where it cannot be told."""
        functions = self._functions()
        if functions is None:
            self._last = self._smooth = None
            return None
        now, busy, agent = self._monotonic(), _busy(), sum(self._agent.cpu_times()[:4])
        last, self._last = self._last, (now, busy, agent, functions)
        if last is None or now <= last[0]:
            return self._smooth
        ours = agent - last[2] + sum(max(0.0, used - last[3].get(name, 0.0)) for name, used in functions.items())
        cpus = psutil.cpu_count() or 1
        load = min(100.0, max(0.0, 100 * (busy - last[1] - ours) / (now - last[0]) / cpus))
        weight = min(1.0, (now - last[0]) / WINDOW_SECONDS)
        self._smooth = load if self._smooth is None else self._smooth + weight * (load - self._smooth)
        return self._smooth


def _busy() -> float:
    """Seconds in which a CPU of this machine did something, since its start."""
    times = psutil.cpu_times()
    # `guest` is in `user` already.
    idle = times.idle + getattr(times, "iowait", 0.0)
    return float(sum(times) - idle - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0))
