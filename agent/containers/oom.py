"""The kernel's own count of processes that it killed in a container because its memory had ended."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")

_FILE_BYTES = 4096


class OomCounter:
    """Reads ``oom_kill`` of a control group. It must be read while the container lives: the file goes with it.

    Args:
        file: ``memory.oom_control`` (version 1) or ``memory.events`` (version 2); None: not to be seen from here.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self.before = 0
        """Kills that belong to earlier tasks."""

    @classmethod
    async def of(cls, container: str, pid: int) -> OomCounter:
        """Find the counter of a container by its first process.

        Args:
            container: Its id, which its control group is named after; so a process of somebody else's
                that has this number where the agent runs is not mistaken for it.
        """
        return cls(await asyncio.to_thread(_find, container, pid))

    async def kills(self) -> int | None:
        """Count the kills since `before`; None where that is not known."""
        total = await asyncio.to_thread(_read, self._file) if self._file is not None else None
        return None if total is None else max(0, total - self.before)

    def forget(self) -> None:
        """Let the kills so far belong to earlier tasks. The kernel answers at once: no disk is waited for."""
        total = _read(self._file) if self._file is not None else None
        if total is not None:
            self.before = max(self.before, total)


def _find(container: str, pid: int) -> Path | None:
    try:
        lines = (PROC / str(pid) / "cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if container not in path:
            continue
        if "memory" in controllers.split(","):
            return CGROUP / "memory" / path.lstrip("/") / "memory.oom_control"
        file = CGROUP / path.lstrip("/") / "memory.events"
        if not controllers and file.exists():
            return file
    return None


def _read(file: Path) -> int | None:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            lines = os.pread(descriptor, _FILE_BYTES, 0).decode("ascii").splitlines()
        finally:
            os.close(descriptor)
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(" ")
        if name == "oom_kill":
            return int(value)
    return None
