"""What a bench measures, beside what it should be; and the table of it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One number.

    Attributes:
        what: What was measured, with what it was divided by.
        unit: Empty for a ratio.
        note: What else should be known: both sides of the ratio, how often it was measured.
    """

    what: str
    measured: float
    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.at_most is None and self.at_least is None:
            return None
        low = self.at_least is None or self.measured >= self.at_least
        return low and (self.at_most is None or self.measured <= self.at_most)

    @property
    def target(self) -> str:
        """The target as people read it."""
        limits = [f"≥ {self.at_least:g}"] if self.at_least is not None else []
        return ", ".join(limits + ([f"≤ {self.at_most:g}"] if self.at_most is not None else []))


def table(figures: Sequence[Figure]) -> str:
    """Lay figures out for people."""
    verdicts = {True: "met", False: "MISSED", None: ""}
    rows = [("what", "target", "measured", "", "how")]
    rows += [
        (each.what, each.target, f"{each.measured:.3g} {each.unit}".strip(), verdicts[each.met], each.note)
        for each in figures
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]).rstrip()
        for row in rows
    )


def write(figures: Sequence[Figure], file: Path, details: dict[str, Any]) -> None:
    """Write figures as JSON, with what they were measured on, and with what else the benches found."""
    content = {
        "machine": {
            "cpus": os.cpu_count(),
            "architecture": platform.machine(),
            "kernel": platform.release(),
            "python": platform.python_version(),
        },
        "figures": [asdict(each) | {"met": each.met} for each in figures],
        "details": details,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def percentile(values: Sequence[float], share: float) -> float:
    """Give the value that so large a share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
