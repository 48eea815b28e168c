"""Sees what functions do while no engine lives to hear them.

A container whose engine is dead goes on, and what it writes may reach nobody. So a function notes each run in its
own /tmp as well, and a witness holds the /tmp of every container open: that keeps it readable past the container's
end.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from tests.chaos.engine_tap import Executions
from tests.second_engine import SecondEngine

LOOK_SECONDS = 0.1
"""Between two looks for new containers; the functions that it watches take longer than that."""


class Witness:
    """Watches the containers of one engine. Made by `watching`."""

    def __init__(self, engine: SecondEngine) -> None:
        self._engine = engine
        self._known: dict[tuple[int, float], int] = {}
        """By process and its start, the open /tmp of its container."""
        self._over = threading.Event()

    def tell(self, executions: Executions) -> None:
        """Count what was noted so far."""
        for directory in list(self._known.values()):
            with suppress(FileNotFoundError):
                file = os.open("ran", os.O_RDONLY, dir_fd=directory)
                with os.fdopen(file, "rb") as noted:
                    executions.read(noted.read(), "witness")

    def look(self) -> None:
        """Look for new containers until it is over."""
        while not self._over.wait(LOOK_SECONDS):
            for process in self._engine.functions():
                # Whatever ends while it is looked at was no function yet, or is known already.
                with suppress(psutil.Error, OSError):
                    if "/function.py" in process.cmdline():
                        self._open(process)

    def close(self) -> None:
        """Let go of everything."""
        self._over.set()

    def forget(self) -> None:
        """Close what is held open, when nobody looks any more."""
        for directory in self._known.values():
            os.close(directory)

    def _open(self, process: psutil.Process) -> None:
        key = (process.pid, process.create_time())
        if key not in self._known:
            self._known[key] = os.open(f"/proc/{process.pid}/root/tmp", os.O_RDONLY | os.O_DIRECTORY)


@contextmanager
def watching(engine: SecondEngine) -> Iterator[Witness]:
    """Watch an engine's containers for a while."""
    witness = Witness(engine)
    looking = threading.Thread(target=witness.look, name="witness")
    looking.start()
    try:
        yield witness
    finally:
        witness.close()
        looking.join()
        witness.forget()
