"""What only the agent knows of a container, kept so that it outlives the agent: that it may be adopted.

A server is marked while nothing is asked of it, a job from the moment that it has its whole input. A mark is taken
away before the first thing is done that makes it untrue, so a container that has one can be trusted after a crash.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import structlog

log = structlog.get_logger()

SOON_SECONDS = 0.1

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Marks:
    """Empty files in a directory, named after containers.

    They need not reach the disk: they outlive the process and not the machine. After the machine was started
    anew no container is what it was, and so marks of another boot do not count.

    Args:
        directory: None: nothing is ever marked.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory and directory / _boot()
        self._parent = directory
        self._soon: dict[str, asyncio.TimerHandle] = {}

    def mark_soon(self, container: str) -> None:
        """Mark a container, unless that is untrue again after `SOON_SECONDS`: a busy one costs no file each time."""
        if self._directory is not None:
            self._cancel(container)
            self._soon[container] = asyncio.get_running_loop().call_later(SOON_SECONDS, self.mark, container)

    def mark(self, container: str) -> None:
        """Mark a container. Where that fails it is merely not adopted."""
        self._cancel(container)
        if self._directory is None:
            return
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            (self._directory / container).touch()
        except OSError as error:
            log.warning("container not marked", container=container, reason=str(error))

    def unmark(self, container: str) -> None:
        """Take a mark away, if it is there.

        Raises:
            OSError: It may still be there.
        """
        self._cancel(container)
        if self._directory is not None:
            # Also where it was only to be marked soon: one that was adopted has had its mark all along.
            (self._directory / container).unlink(missing_ok=True)

    def _cancel(self, container: str) -> None:
        """Forget that a container is to be marked soon."""
        if (timer := self._soon.pop(container, None)) is not None:
            timer.cancel()

    def names(self) -> set[str]:
        """Name the marked containers."""
        if self._directory is None or not self._directory.is_dir():
            return set()
        return {file.name for file in self._directory.iterdir()}

    def strays(self, known: Iterable[str]) -> list[Path]:
        """List the files of containers that are not known, and of earlier boots."""
        if self._directory is None or self._parent is None or not self._parent.is_dir():
            return []
        files = [file for file in self._parent.rglob("*") if not file.is_dir()]
        return [file for file in files if file.parent != self._directory or file.name not in set(known)]


def _boot() -> str:
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return "boot"
