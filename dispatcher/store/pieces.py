"""Bodies as every store cuts them."""

from __future__ import annotations

from collections.abc import AsyncIterator

CHUNK = 256 * 1024
"""Bodies larger than this are kept and read in pieces of so many bytes."""


async def pieces(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Cut bytes into pieces of `CHUNK`. Where they break off, what has come is a piece, before the error is raised."""
    waiting = bytearray()
    broken: Exception | None = None
    try:
        async for chunk in chunks:
            waiting += chunk
            while len(waiting) >= CHUNK:
                yield bytes(waiting[:CHUNK])
                del waiting[:CHUNK]
    except Exception as error:  # noqa: BLE001 - raised again below, whatever it is
        broken = error
    if waiting:
        yield bytes(waiting)
    if broken is not None:
        raise broken
