"""Logs in systemd's journal as entries with fields: ``journalctl FERND_TASK=6b05…`` gives one task's lines.

The words of an entry are the event and its values, to be read; the same values are fields, to be searched. An entry
that the journal does not take goes to stderr as it would without a journal.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

SOCKET = "/run/systemd/journal/socket"

_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_NOT_IN_NAMES = re.compile(r"[^A-Z0-9_]")
_PREFIX = "FERND_"
_LONGEST_NAME = 64


def is_stderr(environ: Mapping[str, str]) -> bool:
    """Say whether what is written to stderr goes to the journal: then its fields can go there too."""
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class Entries:
    """What structlog writes events with, whatever their level.

    Args:
        otherwise: Writes an event that the journal does not take.
    """

    def __init__(self, otherwise: Callable[[dict[str, Any]], None], address: str = SOCKET) -> None:
        self._otherwise = otherwise
        self._address = address
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def msg(self, event: Mapping[str, Any]) -> None:
        """Write an event with its values."""
        try:
            # Without waiting: a journal that stands still must not hold up a heartbeat.
            self._line.sendto(entry(event), socket.MSG_DONTWAIT, self._address)
        except OSError:
            self._otherwise(dict(event))

    debug = info = warning = error = critical = exception = log = msg


def entry(event: Mapping[str, Any]) -> bytes:
    """Write an event as an entry of the journal's own protocol."""
    values = {key: value for key, value in event.items() if key not in {"event", "level", "timestamp"}}
    texts = {key: _text(value) for key, value in values.items()}
    words = [str(event.get("event", "")), *(f"{key}={text}" for key, text in texts.items())]
    fields = {
        "MESSAGE": " ".join(words),
        "PRIORITY": str(_PRIORITY.get(str(event.get("level")), 6)),
        "SYSLOG_IDENTIFIER": "fernd",
        f"{_PREFIX}EVENT": str(event.get("event", "")),
        **{_name(key): text for key, text in texts.items()},
    }
    return b"".join(_field(name, text.encode("utf-8", "replace")) for name, text in fields.items())


def _name(key: str) -> str:
    return (_PREFIX + _NOT_IN_NAMES.sub("_", key.upper()))[:_LONGEST_NAME]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode()


def _field(name: str, value: bytes) -> bytes:
    """Write a field by its length, so that it may hold a line's end."""
    return name.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"
