"""What all rounds together came to: the table at the end of a run."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field

ROUNDS = int(os.environ.get("ROUNDS") or 1)
LONG = ROUNDS > 1
"""Faults last as long as the worst that was asked for, and not just long enough to matter."""


@dataclass
class Tally:
    """Counts over all scenarios of a run.

    Attributes:
        faults: How often each kind of fault was injected.
        lost: Tasks that were accepted and have no true end.
        doubled: Tasks that must run once and ran twice, or whose recorded end changed.
        orphans: Containers, networks, volumes and files that were left.
        seconds: Measured times, by what was measured.
        memory: Measured MiB before and at the most, by what was measured.
    """

    seed: int
    rounds: int = 0
    audited: int = 0
    executions: int = 0
    lost: int = 0
    doubled: int = 0
    orphans: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, tuple[float, float]] = field(default_factory=dict)

    def fault(self, kind: str) -> None:
        """Count a fault."""
        self.faults[kind] += 1

    def measured(self, what: str, seconds: float) -> None:
        """Keep a measured time."""
        self.seconds.setdefault(what, []).append(seconds)

    def grew(self, what: str, before: float, peak: float) -> None:
        """Keep measured memory."""
        self.memory[what] = before, peak

    def table(self) -> list[str]:
        """Give the lines of the table."""
        lines = [("seed", str(self.seed)), ("rounds", str(self.rounds))]
        lines += [(f"fault: {kind}", str(count)) for kind, count in sorted(self.faults.items())]
        lines += [
            ("tasks audited", str(self.audited)),
            ("executions seen", str(self.executions)),
            ("lost", str(self.lost)),
            ("doubled", str(self.doubled)),
            ("orphans", str(self.orphans)),
        ]
        for what, times in sorted(self.seconds.items()):
            lines.append((what, f"{min(times):.2f} to {max(times):.2f} s ({len(times)} measured)"))
        for what, (before, peak) in sorted(self.memory.items()):
            lines.append((what, f"{before:.1f} MiB before, {peak:.1f} MiB at the most"))
        width = max(len(name) for name, _ in lines)
        return [f"{name:<{width}}  {value}" for name, value in lines]
