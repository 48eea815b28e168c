"""The input of a task, from memory or from its file, piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

PIECE = 64 * 1024


async def size_of(body: bytes | Path) -> int:
    """Give the number of bytes."""
    if isinstance(body, bytes):
        return len(body)
    return (await asyncio.to_thread(body.stat)).st_size


async def pieces_of(body: bytes | Path) -> AsyncGenerator[bytes, None]:
    """Give the bytes, so many at a time that nobody waits long."""
    if isinstance(body, bytes):
        for at in range(0, len(body), PIECE):
            yield body[at : at + PIECE]
        return
    at = 0
    while piece := await asyncio.to_thread(_piece, body, at):
        at += len(piece)
        yield piece


def _piece(file: Path, at: int) -> bytes:
    # Opened for each piece: whoever stops reading, or is cancelled while the file is being opened, leaves none open.
    with file.open("rb") as opened:
        opened.seek(at)
        return opened.read(PIECE)
