"""The body of an answer as it comes in: hashed, measured, and on disk where it is large."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import BinaryIO

from agent.protocol import INLINE_LIMIT


class AnswerTooLarge(Exception):
    """The answer has more bytes than a result may have."""


class AnswerNotKept(Exception):
    """The answer cannot be written to this node's disk; the text says why."""


class AnswerBody:
    """Collects an answer's body.

    Args:
        path: The file to be written if the body is over `INLINE_LIMIT`.
        limit: Bytes that it may have.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self.limit = limit
        self._memory = bytearray()
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self.size = 0
        self._failure = ""

    async def add(self, piece: bytes) -> None:
        """Take the next bytes.

        Raises:
            AnswerTooLarge: That is one too many.
            AnswerNotKept: There is no room on the disk for them, or was none before.
        """
        self.check()
        self.size += len(piece)
        if self.size > self.limit:
            raise AnswerTooLarge
        self._hash.update(piece)
        self._memory += piece
        if self.size > INLINE_LIMIT and len(self._memory) > INLINE_LIMIT:
            await self._write()

    async def close(self) -> tuple[bytes | None, Path | None]:
        """Give the body, or the file that it is in.

        Raises:
            AnswerNotKept: It is not complete.
        """
        self.check()
        if self._file is None:
            return bytes(self._memory), None
        await self._write()
        await asyncio.to_thread(self._file.close)
        return None, self._path

    def check(self) -> None:
        """Raise `AnswerNotKept` if bytes were lost."""
        if self._failure:
            raise AnswerNotKept(self._failure)

    def in_memory(self) -> bytes | None:
        """Look at the body so far; None where it is in a file."""
        return bytes(self._memory) if self._file is None else None

    async def start_over(self) -> None:
        """Forget what was collected, and collect anew."""
        await self.discard()
        self._file = None
        self._hash = hashlib.sha256()
        self.size = 0
        self._failure = ""

    async def discard(self) -> None:
        """Forget what was collected. May be called again."""
        self._memory.clear()
        if self._file is not None:
            await asyncio.to_thread(self._unlink, self._file)

    @property
    def sha256(self) -> str:
        """Hash of all bytes so far, in hex."""
        return self._hash.hexdigest()

    async def _write(self) -> None:
        piece, self._memory = self._memory, bytearray()
        try:
            await asyncio.to_thread(self._append, piece)
        except OSError as error:
            self._failure = error.strerror or str(error)
            self.check()

    def _append(self, piece: bytearray) -> None:
        if self._file is None:
            self._file = self._path.open("wb", buffering=0)
        left = memoryview(piece)
        while left:
            left = left[self._file.write(left) :]

    def _unlink(self, file: BinaryIO) -> None:
        file.close()
        self._path.unlink(missing_ok=True)
