"""When a server that was started can take requests."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Literal

from agent.containers.container import Container
from agent.containers.freezer import Freezer
from agent.containers.http_call import is_ready
from agent.containers.reach import Door

_FIRST_LOOK = 0.002
_SLOWEST_LOOK = 0.05
_READY_PATH_SECONDS = 2.0


async def until_ready(
    container: Container, path: str, limit: float, freezer: Freezer
) -> Literal["ready", "late", "ended"]:
    """Wait until a server accepts connections, and answers a path with 2xx where one is given.

    Args:
        limit: Seconds until it is late, without those in which it stands still.

    Returns:
        ``ended`` also where it cannot be reached, which most likely means that it has just ended.
    """
    if container.door is None or container.ended.is_set():
        return "ended"
    looking = asyncio.create_task(_ready(container.door, path))
    ended = asyncio.create_task(container.ended.wait())
    try:
        with suppress(TimeoutError):
            async with freezer.timeout(limit):
                await asyncio.wait({looking, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not looking.done():
            return "ended" if container.ended.is_set() else "late"
        return "ready" if looking.exception() is None else "ended"
    finally:
        for task in (looking, ended):
            task.cancel()
        await asyncio.gather(looking, ended, return_exceptions=True)


async def _ready(door: Door, path: str) -> None:
    await door.until_accepts()
    pause = _FIRST_LOOK
    while path and not await is_ready(door, path, _READY_PATH_SECONDS):
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _SLOWEST_LOOK)
