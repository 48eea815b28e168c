"""Whether the kernel killed processes in a container because its memory had ended, by the kernel's own count.

The count goes with the control group, a few milliseconds after the container has ended and sooner than the engine
says that it has. On a busy machine nobody reads it in time, and engines miss it too. So it is not left to luck:

- Control groups of version 1 tell an eventfd of each lack of memory, and once more when they are removed. What an
  eventfd was told stays readable: more than the one for the removal is a lack of memory.
- Version 2 has nothing of the kind. There the first process of the container is watched, and the count is read the
  moment that it ends.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")

_FILE_BYTES = 4096


class OomCounter:
    """Reads ``oom_kill`` of a control group, and knows it for as long as anybody asks. To be closed.

    Args:
        file: ``memory.oom_control`` (version 1) or ``memory.events`` (version 2); None: not to be seen from here.
        told: An eventfd that the control group tells of its lack of memory, and of its removal.
    """

    def __init__(self, file: Path | None, told: int | None = None) -> None:
        self._file = file
        self.before = 0
        """Kills that belong to earlier tasks."""
        self._total: int | None = None
        self._told = told
        self._tellings = 0
        self._process: int | None = None

    @classmethod
    async def of(cls, container: str, pid: int) -> OomCounter:
        """Find the counter of a container by its first process.

        Args:
            container: Its id, which its control group is named after; so a process of somebody else's
                that has this number where the agent runs is not mistaken for it.
        """
        counter = cls(*await asyncio.to_thread(_find, container, pid))
        if counter._file is not None and counter._told is None:
            counter._watch(pid)
        return counter

    def kills(self) -> int | None:
        """Count the kills since `before`; where the count is gone, 1 stands for any. None where nothing is known."""
        self._listen()
        if self._file is None:
            return None
        if (total := _read(self._file)) is not None:
            self._total = total
            return max(0, total - self.before)
        seen = None if self._total is None else max(0, self._total - self.before)
        return seen or 1 if self._tellings > 1 else seen

    def forget(self) -> None:
        """Let the kills so far belong to earlier tasks."""
        self._listen()
        self._tellings = 0
        if self._file is not None and (total := _read(self._file)) is not None:
            self._total = total
            self.before = max(self.before, total)

    def close(self) -> None:
        """Let go of what it watches; what it knows by now it knows for good."""
        self._listen()
        if self._told is not None:
            os.close(self._told)
            self._told = None
        if self._process is not None:
            asyncio.get_running_loop().remove_reader(self._process)
            os.close(self._process)
            self._process = None

    def _listen(self) -> None:
        if self._told is not None:
            with suppress(BlockingIOError):
                self._tellings += os.eventfd_read(self._told)

    def _watch(self, pid: int) -> None:
        try:
            self._process = os.pidfd_open(pid)
        except OSError:
            self.kills()  # it has ended already, or this kernel cannot tell
        else:
            asyncio.get_running_loop().add_reader(self._process, self._ended)

    def _ended(self) -> None:
        self.kills()
        self.close()


def _find(container: str, pid: int) -> tuple[Path | None, int | None]:
    """Find the file with the count, and have an eventfd told where that is possible."""
    directory, one_of_many = control_group(container, pid, "memory")
    if directory is None:
        return None, None
    if one_of_many:
        file = directory / "memory.oom_control"
        return file, _to_be_told(file)
    file = directory / "memory.events"
    return (file, None) if file.exists() else (None, None)


def control_group(container: str, pid: int, controller: str) -> tuple[Path | None, bool]:
    """Find the directory of a container's control group, by its first process.

    Returns:
        None where it is not to be seen; and whether each controller has a hierarchy of its own, as in version 1.
    """
    try:
        lines = (PROC / str(pid) / "cgroup").read_text().splitlines()
    except OSError:
        return None, False
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if container not in path:
            continue
        if controller in controllers.split(","):
            return CGROUP / controller / path.lstrip("/"), True
        if not controllers and (directory := CGROUP / path.lstrip("/")).exists():
            return directory, False
    return None, False


def has_own_group(container: str, pid: int) -> bool:
    """Say whether a container has a control group at all: a runtime can be told to make none."""
    try:
        lines = (PROC / str(pid) / "cgroup").read_text().splitlines()
    except OSError:
        return True  # it has just ended
    return any(container in line for line in lines)


def _to_be_told(file: Path) -> int | None:
    """Have the kernel tell an eventfd; None where it does not."""
    told = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        with file.open("rb") as count, file.with_name("cgroup.event_control").open("wb", buffering=0) as control:
            control.write(f"{told} {count.fileno()}".encode())
    except OSError:
        os.close(told)
        return None
    return told


def _read(file: Path) -> int | None:
    """Read the count, at once: the kernel makes it up as it is read, and it may be gone before a thread gets to it."""
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
