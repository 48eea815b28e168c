"""Runs the benches: prints one table of targets and measured, and writes the same as JSON.

    python -m benches [BENCH …] [--json FILE]

Each bench is a module with a coroutine function `run`, which gives its figures, and fills in what is worth keeping
beside them. What it compares with is measured in the same run, next to what it measures: the machine may be slow or
busy, and only the ratios are to be compared between machines.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import sys
import time
from pathlib import Path
from typing import Any

from benches.figures import Figure, table, write

BENCHES = ("path", "floor", "cold_start", "burst", "idle", "memory", "alternatives")
"""In this order. Others in this directory are run by themselves: they take long, or speak of one part only."""

RESULTS = Path("var/bench.json")


def main() -> int:
    """Run what was asked for; 1 where a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m benches", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("benches", nargs="*", metavar="BENCH", default=BENCHES, help=f"of {', '.join(BENCHES)}")
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE", help=f"by default {RESULTS}")
    asked = parser.parse_args()
    figures: list[Figure] = []
    details: dict[str, Any] = {}
    for name in asked.benches:
        print(f"{name} …", file=sys.stderr, flush=True)
        begun = time.perf_counter()
        module = importlib.import_module(f"benches.{name}")
        figures += asyncio.run(module.run(details.setdefault(name, {})))
        print(f"{name}: {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
        write(figures, asked.json, details)  # what was measured is kept if a later one breaks off
    print(table(figures))
    return 1 if any(each.met is False for each in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
