"""The kernel's own count of the CPU time that a container has used."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agent.containers.oom import control_group


class CpuUse:
    """Reads the usage of a control group.

    Args:
        file: ``cpu.stat`` (version 2) or ``cpuacct.usage`` (version 1); None: not to be seen from here.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._last = 0.0

    @classmethod
    async def of(cls, container: str, pid: int) -> CpuUse:
        """Find the count of a container by its id and its first process."""
        return cls(await asyncio.to_thread(_find, container, pid))

    def seconds(self) -> float | None:
        """Give the CPU seconds used so far, as of the last look where the container has ended; None: not known."""
        if self._file is None:
            return None
        try:
            text = self._file.read_text(encoding="ascii")
        except OSError:
            return self._last
        if self._file.name == "cpuacct.usage":
            self._last = int(text) / 1_000_000_000
        else:
            name, _, micros = text.partition("\n")[0].partition(" ")
            self._last = int(micros) / 1_000_000 if name == "usage_usec" else self._last
        return self._last


def _find(container: str, pid: int) -> Path | None:
    directory, one_of_many = control_group(container, pid, "cpuacct")
    if directory is None:
        return None
    file = directory / ("cpuacct.usage" if one_of_many else "cpu.stat")
    return file if file.exists() else None
