"""The name of this run of the tests. What it makes on a machine carries it, so that a later run knows whose it was."""

from __future__ import annotations

import os
import re

import psutil

RUN = f"{os.getpid()}-{int(psutil.Process().create_time())}"
"""A process id alone comes again; with the time of its start it does not."""

_RUN = re.compile(r"[0-9]+-[0-9]+")

CLOCK_SECONDS = 2
"""The start of a process is reckoned from that of the machine, which moves a little with the clock."""


def is_over(run: str) -> bool:
    """Say whether a name is that of a run which has ended; others are nobody's business."""
    if not _RUN.fullmatch(run):
        return False
    pid, started = map(int, run.split("-"))
    try:
        return abs(psutil.Process(pid).create_time() - started) > CLOCK_SECONDS
    except psutil.NoSuchProcess:
        return True
