"""What a function writes: frames into lines, lines into progress and log.

Everything here takes what comes, however it is cut and however much it is, in bounded memory and
without ever waiting, so that a function is never held up by its own output.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, NamedTuple

from agent.protocol import Log

Stream = Literal["stdout", "stderr"]

LOG_BYTES = 1024 * 1024
"""Bytes of a log that are kept: half of them from its beginning, half from its end."""

LINE_LIMIT = 16 * 1024
"""A longer line is taken, and shown live, in parts of so many bytes."""

LIVE_LINES = 256
"""So many lines of each piece read are shown live; a flood goes to the log only."""

MESSAGE_LIMIT = 200
"""Characters of a progress message."""

_HEADER = 8
_STREAMS: dict[int, Stream] = {1: "stdout", 2: "stderr"}
_MARK = b"::progress::"
_PROGRESS = re.compile(rb"::progress::([0-9]{1,3})(?: (.*))?\r?", re.DOTALL)


class Progress(NamedTuple):
    """What a progress line says."""

    percent: int
    message: str


def parse_progress(line: bytes) -> Progress | None:
    """Read a progress line; None for any other, also where the percentage is over 100."""
    match = _PROGRESS.fullmatch(line)
    if match is None or int(match[1]) > 100:
        return None
    message = (match[2] or b"").decode("utf-8", "replace").strip()
    return Progress(int(match[1]), message[:MESSAGE_LIMIT])


class Demultiplexer:
    """Takes apart the engine's attach stream: frames of 8 bytes of header and a payload.

    Payloads are passed on as they come, without waiting for the end of their frame: a frame may be
    larger than anything that we want to keep.
    """

    def __init__(self) -> None:
        self._header = b""
        self._stream: Stream = "stdout"
        self._left = 0

    def feed(self, piece: bytes) -> list[tuple[Stream, bytes]]:
        """Take the next piece of the stream and give the output that is in it."""
        out: list[tuple[Stream, bytes]] = []
        at = 0
        while at < len(piece):
            if self._left:
                payload = piece[at : at + self._left]
                self._left -= len(payload)
                at += len(payload)
                out.append((self._stream, payload))
                continue
            missing = _HEADER - len(self._header)
            self._header += piece[at : at + missing]
            at += missing
            if len(self._header) == _HEADER:
                self._stream = _STREAMS.get(self._header[0], "stdout")
                self._left = int.from_bytes(self._header[4:], "big")
                self._header = b""
        return out


class Lines:
    """Cuts bytes into lines with their newlines, the same ones however the bytes come; a long one into parts."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[bytes]:
        """Take the next bytes and give the lines that are complete, and parts of one that is too long to be held."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > LINE_LIMIT or any(len(line) > LINE_LIMIT for line in lines):
            *parts, self._rest = _cut(self._rest)
            return [part for line in lines for part in _cut(line, b"\n")] + parts
        return [line + b"\n" for line in lines]

    def flush(self) -> list[bytes]:
        """Give the last line, where it has no newline."""
        rest, self._rest = self._rest, b""
        return [rest] if rest else []


def _cut(line: bytes, end: bytes = b"") -> list[bytes]:
    *parts, last = [line[at : at + LINE_LIMIT] for at in range(0, len(line), LINE_LIMIT)] or [b""]
    return [*parts, last + end]


class LogBuffer:
    """Keeps the beginning and the end of what is added, half and half, and counts what lies between."""

    def __init__(self, limit: int = LOG_BYTES) -> None:
        self._part = limit // 2
        self._head = bytearray()
        self._tail = bytearray()
        self._omitted = 0

    def add(self, piece: bytes) -> None:
        """Add to the end."""
        room = self._part - len(self._head)
        self._head += piece[:room]
        self._tail += piece[room:]
        # Trimmed at twice the size, so that small pieces do not move the tail each time.
        if len(self._tail) > 2 * self._part:
            self._trim()

    def log(self) -> Log:
        """Give what was kept."""
        self._trim()
        return Log(bytes(self._head), self._omitted, bytes(self._tail))

    def _trim(self) -> None:
        over = len(self._tail) - self._part
        if over > 0:
            del self._tail[:over]
            self._omitted += over


class Capture:
    """The output of one task: sets its progress, shows its lines, keeps its log.

    Args:
        percent: Told of each progress line.
        line: Told of each other line.
        streams: Streams where progress lines count.
        log_bytes: Bytes of the log that are kept.
    """

    def __init__(
        self,
        percent: Callable[[int, str], None],
        line: Callable[[Stream, bytes], None],
        streams: frozenset[Stream] = frozenset({"stdout", "stderr"}),
        log_bytes: int = LOG_BYTES,
    ) -> None:
        self._percent = percent
        self._line = line
        self._streams = streams
        self._seen = 0
        self._shown_before = 0
        self._log_bytes = log_bytes
        self._begin()

    def feed(self, stream: Stream, piece: bytes) -> None:
        """Take what the function wrote."""
        self._take(stream, self._lines[stream].feed(piece))

    def start_over(self) -> None:
        """Expect all output from its beginning again; what was shown of it is not shown a second time."""
        self._shown_before, self._seen = max(self._seen, self._shown_before), 0
        self._begin()

    def close(self) -> Log:
        """Take the last lines, which have no newline, and give the log."""
        for stream, lines in self._lines.items():
            self._take(stream, lines.flush())
        return self._log.log()

    def _begin(self) -> None:
        self._lines: dict[Stream, Lines] = {"stdout": Lines(), "stderr": Lines()}
        # Of each stream in the middle of a line: whether that is a progress line.
        self._within: dict[Stream, bool] = {}
        self._log = LogBuffer(self._log_bytes)
        self._unfinished: Stream | None = None

    def _take(self, stream: Stream, lines: list[bytes]) -> None:
        if lines and stream in self._streams:
            lines = self._without_progress(stream, lines)
        if not lines:
            return
        if self._unfinished not in {None, stream}:
            self._log.add(b"\n")  # streams do not mix within a line
        self._log.add(b"".join(lines))
        self._unfinished = None if lines[-1].endswith(b"\n") else stream
        known = max(0, min(len(lines), self._shown_before - self._seen))
        self._seen += len(lines)
        for line in lines[known : known + LIVE_LINES]:
            self._line(stream, line.removesuffix(b"\n"))

    def _without_progress(self, stream: Stream, lines: list[bytes]) -> list[bytes]:
        """Tell the progress and leave out its lines, with every part of a long one."""
        progress = self._within.pop(stream, None)
        if progress or any(line.startswith(_MARK) for line in lines):
            kept = []
            for line in lines:
                if progress is None:
                    progress = self._is_progress(line)
                if not progress:
                    kept.append(line)
                if line.endswith(b"\n"):
                    progress = None
        else:
            kept = lines
        if not lines[-1].endswith(b"\n"):
            self._within[stream] = bool(progress)
        return kept

    def _is_progress(self, line: bytes) -> bool:
        # Progress that repeats itself does no harm: it counts only where it grows.
        progress = parse_progress(line.removesuffix(b"\n")) if line.startswith(_MARK) else None
        if progress is not None:
            self._percent(*progress)
        return progress is not None
