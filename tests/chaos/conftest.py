"""One tally for the whole run, its table at the end, and the image of the function that runs under chaos.

``SEED`` repeats a run. ``ROUNDS`` makes it long: so many rounds of random harm, and faults at their full length.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from tests.chaos.tally import ROUNDS, Tally
from tests.chaos.workload import FUNCTION
from tests.images import built

SEED = int(os.environ.get("SEED") or random.SystemRandom().randrange(1_000_000))

_TALLY = Tally(SEED)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table, if anything ran."""
    if _TALLY.rounds or _TALLY.faults:
        terminalreporter.section("chaos")
        for line in _TALLY.table():
            terminalreporter.write_line(line)
        terminalreporter.write_line(f"repeat with: make chaos SEED={SEED} ROUNDS={ROUNDS}")


@pytest.fixture(scope="session")
def tally() -> Tally:
    return _TALLY


@pytest.fixture(scope="session")
def image() -> Iterator[str]:
    """The function's image on the system's engine."""
    with built("chaos", "function.py", FUNCTION) as image:
        yield image
