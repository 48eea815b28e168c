"""The body of an answer as it comes in: hashed, measured, and on disk where it is large."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import BinaryIO

from agent.protocol import INLINE_LIMIT


class AnswerTooLarge(Exception):
    """The answer has more bytes than a result may have."""


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

    async def add(self, piece: bytes) -> None:
        """Take the next bytes.

        Raises:
            AnswerTooLarge: That is one too many.
        """
        self.size += len(piece)
        if self.size > self.limit:
            raise AnswerTooLarge
        self._hash.update(piece)
        self._memory += piece
        if self.size > INLINE_LIMIT and len(self._memory) > INLINE_LIMIT:
            await self._write()

    async def close(self) -> tuple[bytes | None, Path | None]:
        """Give the body, or the file that it is in."""
        if self._file is None:
            return bytes(self._memory), None
        await self._write()
        await asyncio.to_thread(self._file.close)
        return None, self._path

    def in_memory(self) -> bytes | None:
        """Look at the body so far; None where it is in a file."""
        return bytes(self._memory) if self._file is None else None

    async def start_over(self) -> None:
        """Forget what was collected, and collect anew."""
        await self.discard()
        self._file = None
        self._hash = hashlib.sha256()
        self.size = 0

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
        self._file = await asyncio.to_thread(self._append, self._file, piece)

    def _append(self, file: BinaryIO | None, piece: bytearray) -> BinaryIO:
        opened = file or self._path.open("wb")
        opened.write(piece)
        return opened

    def _unlink(self, file: BinaryIO) -> None:
        file.close()
        self._path.unlink(missing_ok=True)
