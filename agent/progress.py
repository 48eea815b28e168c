"""How far one attempt is, on its way to whoever watches.

A function may report a million times a second: what comes within `INTERVAL` is told as one, of which
the last counts. Nothing here blocks, and what nobody could read in time is dropped: the log comes
complete with the outcome.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Literal

from agent.protocol import Lease, NodeMessage, Output, Phase, Progress

INTERVAL = 0.1
"""Seconds from a report until it is told, with all that came meanwhile."""

LINE_LIMIT = 4096
"""Bytes of a line that are shown live."""

LINES_LIMIT = 200
"""Lines that are shown live for each `INTERVAL`; the last ones."""

MESSAGE_LIMIT = 500
"""Characters of a progress message."""


class ProgressReport:
    """The report of one attempt; an invocation's `Report`.

    Args:
        send: Takes messages for the session; may drop them.
        entered: Called when the attempt enters a phase.
    """

    def __init__(self, lease: Lease, send: Callable[[NodeMessage], object], entered: Callable[[Phase], None]) -> None:
        self._lease = lease
        self._send = send
        self._entered = entered
        self._sequence = 0
        self._phase: Phase = "pulling"
        self._pulled: tuple[int, int] | None = None
        self._percent: int | None = None
        self._message = ""
        self._news = False
        self._lines: deque[tuple[Literal["stdout", "stderr"], bytes]] = deque(maxlen=LINES_LIMIT)
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def phase(self, phase: Phase) -> None:
        """Say that the attempt enters a phase."""
        if phase != "pulling" and self._pulled is not None:
            self._flush()  # a pull is seen to its end, however quick it was
            self._pulled = None
        self._phase = phase
        self._entered(phase)
        self.repeat()

    def pulled(self, done: int, total: int) -> None:
        """Say how many bytes of the image are here."""
        self._pulled = (done, total)
        self.repeat()

    @property
    def shown(self) -> tuple[int | None, tuple[int, int] | None, str]:
        """What was said last: percent, bytes pulled of how many, message."""
        return self._percent, self._pulled, self._message

    def percent(self, percent: int, message: str) -> None:
        """Say how far the function is; the percentage never falls."""
        self._percent = max(self._percent or 0, min(100, max(0, percent)))
        self._message = message[:MESSAGE_LIMIT]
        self.repeat()

    def line(self, stream: Literal["stdout", "stderr"], line: bytes) -> None:
        """Show a line that the function wrote."""
        self._lines.append((stream, line[:LINE_LIMIT]))
        self._tell_soon()

    def repeat(self) -> None:
        """Tell what is known, also if it was told before: a session that broke may have lost it."""
        self._news = True
        self._tell_soon()

    def close(self) -> None:
        """Tell what is left, and be silent from then on: the outcome follows."""
        self._flush()
        self._closed = True

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._tell()

    def _tell_soon(self) -> None:
        if self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._tell)

    def _tell(self) -> None:
        self._timer = None
        if self._lines:
            lines = list(self._lines)
            self._lines.clear()
            self._send(Output(self._lease, self._next(), lines))
        if self._news:
            self._news = False
            self._send(
                Progress(self._lease, self._next(), self._phase, self._percent, self._message, self._pulled),
            )

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence
