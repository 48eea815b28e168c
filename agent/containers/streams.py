"""Where a container's output comes from: its attached streams, or the log that the engine keeps of a job."""

from __future__ import annotations

import hashlib
from typing import Protocol

from agent.containers.engine import Attachment, Logged
from agent.containers.output import Demultiplexer, Stream
from agent.containers.spec import JOB_LOG_MIB

PART = 16 * 1024
"""The engine logs a longer line in entries of so many bytes, and leaves out the newline at its end."""

ENTRY_BYTES = 128
"""No entry takes more than so many bytes in the log beside its own."""

_READ = 64 * 1024
_STREAMS: dict[int, Stream] = {1: "stdout", 2: "stderr"}


class OutputLost(Exception):
    """What a container wrote cannot be told any more, byte for byte."""


class Source(Protocol):
    """Gives what a container writes."""

    async def read(self) -> list[tuple[Stream, bytes]]:
        """Give the next output, or an empty list at the end.

        Raises:
            OSError, EngineUnavailable: It broke off.
            OutputLost: It cannot be given byte for byte.
        """

    async def close(self) -> None:
        """Let go of it. The container goes on."""


class Attached:
    """The streams themselves, from the moment that they were attached."""

    def __init__(self, attachment: Attachment) -> None:
        self._attachment = attachment
        self._frames = Demultiplexer()

    async def read(self) -> list[tuple[Stream, bytes]]:
        """Give the next output."""
        while piece := await self._attachment.reader.read(_READ):
            if output := self._frames.feed(piece):
                return output
        return []

    async def close(self) -> None:
        """Let go of the streams."""
        self._attachment.close()


class FromLog:
    """All that a job ever wrote, from its engine's log; and then what it writes, where it is followed.

    Args:
        complete: The job has ended, and the log is its last word. Of one that is followed the engine may leave
            out the last entries, so it must be read again then.
    """

    def __init__(self, logged: Logged, complete: bool) -> None:
        self._logged = logged
        self._complete = complete
        self._lines = {"stdout": LoggedLines(), "stderr": LoggedLines()}
        self._logged_bytes = 0

    async def read(self) -> list[tuple[Stream, bytes]]:
        """Give the next output."""
        frame = await self._logged.frame()
        if frame is None:
            if self._complete and self._lines["stdout"].in_doubt:
                raise OutputLost("whether the last line had a newline is not in the log")
            return []
        stream = _STREAMS.get(frame[0], "stdout")
        self._logged_bytes += len(frame[1]) + ENTRY_BYTES
        if self._logged_bytes >= JOB_LOG_MIB * 1024 * 1024:
            # Nothing is lost before a second file is begun a second time; how full they are is not to be seen.
            raise OutputLost(f"the job wrote about {JOB_LOG_MIB} MiB, and the log may have lost its beginning")
        return [(stream, self._lines[stream].feed(frame[1]))]

    async def close(self) -> None:
        """Let go of the log."""
        await self._logged.close()


class Heard:
    """PURE. Holds what a job's log says against what was heard of its standard output before.

    An engine that is killed takes with it what it had read of a pipe and not yet written to the log.
    """

    def __init__(self) -> None:
        self._size = 0
        self._hash = hashlib.blake2b()
        self._before = 0
        self._hash_before = b""

    def feed(self, piece: bytes) -> None:
        """Take the next bytes.

        Raises:
            OutputLost: They are not those that were heard before.
        """
        rest = self._before - self._size
        if 0 < rest <= len(piece):
            hashed = self._hash.copy()
            hashed.update(piece[:rest])
            if hashed.digest() != self._hash_before:
                raise OutputLost("the log lacks what was heard before")
        self._hash.update(piece)
        self._size += len(piece)

    def start_over(self) -> None:
        """Expect all from the beginning."""
        if self._size > self._before:
            self._before, self._hash_before = self._size, self._hash.digest()
        self._size, self._hash = 0, hashlib.blake2b()

    @property
    def lacks(self) -> bool:
        """Less came than was heard before."""
        return self._size < self._before


class LoggedLines:
    """PURE. Puts a stream together from its log entries, each with a blank before it.

    A line of the function is an entry with its newline. One longer than `PART` is several entries, all but
    the last of `PART` bytes, and its newline is not there; one without a newline ends the stream.

    Attributes:
        in_doubt: The last entry ends a long line, and only a further entry would show that it had a newline.
    """

    def __init__(self) -> None:
        self.in_doubt = False
        self._within_line = False
        self._over = False

    def feed(self, entry: bytes) -> bytes:
        """Take the next entry and give the bytes that were written.

        Raises:
            OutputLost: The entries are not as described above.
        """
        if self._over or entry[:1] != b" ":
            raise OutputLost("the log is not in the form that is known")
        before, text = b"\n" if self.in_doubt else b"", entry[1:]
        self.in_doubt = False
        if text.endswith(b"\n"):
            self._within_line = False
        elif len(text) == PART:
            self._within_line = True
        elif not self._within_line:
            self._over = True
        else:
            self._within_line = False
            if text:
                self.in_doubt = True
            else:
                text = b"\n"
        return before + text
