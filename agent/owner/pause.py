"""The owner's own pause, which outlives the agent and the machine's reboot."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import msgspec
import structlog
from msgspec import Struct

FILE = "pause.json"


class Pause(Struct, frozen=True):
    """A pause. `until` is in epoch seconds, since it must hold across a reboot; None: until it is ended."""

    until: float | None = None

    def reason(self, now: float) -> str:
        """Say that the node is paused; empty when its time is over."""
        if self.until is None:
            return "paused on the machine itself"
        if now >= self.until:
            return ""
        return f"paused on the machine itself until {datetime.fromtimestamp(self.until).astimezone():%Y-%m-%d %H:%M %Z}"


def load(data_dir: Path) -> Pause | None:
    """Give the pause that was left; None where there is none. One that cannot be read holds: the owner asked for it."""
    try:
        return msgspec.json.decode((data_dir / FILE).read_bytes(), type=Pause)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        structlog.get_logger().warning("the pause cannot be read, and holds until `resume`", reason=str(error))
        return Pause()


def store(data_dir: Path, pause: Pause | None) -> None:
    """Keep a pause, or forget it. It is on the disk when this returns.

    Raises:
        OSError: It is not.
    """
    if pause is None:
        (data_dir / FILE).unlink(missing_ok=True)
    else:
        partial = data_dir / f"{FILE}.partial"
        with partial.open("wb") as file:
            file.write(msgspec.json.encode(pause))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(data_dir / FILE)
    directory = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
