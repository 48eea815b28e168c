"""What the service manager is told, in systemd's own words: ready, status, alive, stopping.

The protocol is a datagram of ``NAME=value`` lines to the socket that ``NOTIFY_SOCKET`` names; see sd_notify(3).
Without such a socket everything here does nothing.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

import structlog

log = structlog.get_logger()


class ServiceManager:
    """The service manager that started this process, if there is one.

    Attributes:
        listens: There is one, and it wants to be told.
        watchdog_seconds: It restarts the service when `alive` was not said for so long; None: it does not.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self.listens = bool(self._address)
        self.watchdog_seconds = _watchdog_seconds(environ)

    def ready(self, status: str) -> None:
        """Say that the service does its work: after a start, and after a reload."""
        self._tell(READY="1", STATUS=status)

    def status(self, status: str) -> None:
        """Say in a line how the service is."""
        self._tell(STATUS=status)

    def alive(self) -> None:
        """Feed the watchdog."""
        self._tell(WATCHDOG="1")

    def stalled(self, status: str) -> None:
        """Say that the service has stalled and is to be restarted at once."""
        self._tell(STATUS=status, WATCHDOG="trigger")

    def more_time(self, seconds: float) -> None:
        """Ask to be waited for, from now on, for so long, while the service starts or stops."""
        self._tell(EXTEND_TIMEOUT_USEC=str(int(seconds * 1e6)))

    def reloading(self) -> None:
        """Say that settings are read again; `ready` ends it."""
        self._tell(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))

    def stopping(self, status: str) -> None:
        """Say that the service ends."""
        self._tell(STOPPING="1", STATUS=status)

    def _tell(self, **lines: str) -> None:
        if not self.listens:
            return
        message = "".join(f"{name}={value.replace(chr(10), ' ')}\n" for name, value in lines.items()).encode()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
                line.setblocking(False)
                line.connect(self._address)
                line.send(message)
        except OSError as error:
            log.warning("the service manager was not told", reason=str(error), told=sorted(lines))


def _address(name: str) -> str:
    return "\0" + name[1:] if name.startswith("@") else name


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    # A variable that was handed on to a child is not meant for it.
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    value = environ.get("WATCHDOG_USEC", "")
    return int(value) / 1e6 if value.isdecimal() and int(value) > 0 else None
