"""What all tests need of the process that runs them."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator

import pytest
import structlog

# A shell without job control starts what it puts into the background with SIGINT ignored, and every program
# that is started from there inherits that. The tests send it as a terminal's Ctrl-C would.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """Undo what a program that a test ran in this process has done to the logs: they would go to its dead stderr."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
