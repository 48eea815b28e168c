"""What is counted of attempts that ran, by the node that ran them and by the dispatcher that recorded them."""

from __future__ import annotations

from collections.abc import Iterable

from agent.exposition import Family, Histogram, by, counter, histogram
from agent.protocol import Outcome

PHASES = ("pulling", "starting", "running", "uploading")

PHASE_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)
"""Bounds for what a task spends in a phase: from a warm call to the longest time limit."""


class AttemptFigures:
    """How long attempts were in each phase, and whether a container was started for them.

    Args:
        more: Phases that are observed beside those on a node.
    """

    def __init__(self, *more: str) -> None:
        self._phases = {phase: Histogram(PHASE_SECONDS) for phase in (*more, *PHASES)}
        self._starts = {"cold": 0, "warm": 0}

    def ran(self, outcome: Outcome) -> None:
        """Count an attempt that ended with an outcome. Phases that it never was in do not count."""
        self._starts["cold" if outcome.cold else "warm"] += 1
        spans = outcome.spans
        for phase in PHASES:
            if (milliseconds := getattr(spans, phase)) > 0:
                self.spent(phase, milliseconds)

    def spent(self, phase: str, milliseconds: float) -> None:
        """Count the time that one attempt was in one phase."""
        self._phases[phase].observe(max(0.0, milliseconds) / 1000)

    def families(self, name: str, meaning: str) -> Iterable[Family]:
        """Give what was counted.

        Args:
            name: What the names of the figures begin with.
            meaning: What the description of the phases says beside.
        """
        yield counter(f"{name}_starts_total", "Attempts that ended with an outcome, by whether a container was started"
                      " for them.", by("start", self._starts))  # fmt: skip
        yield histogram(f"{name}_phase_seconds", f"Time that attempts spent in each phase{meaning}.",
                        by("phase", self._phases))  # fmt: skip
