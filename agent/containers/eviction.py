"""Room on the engine's disk: images of ours that are not used go, the one unused for longest first.

An image is removed only if this agent pulled it, it still is what was pulled, no container of anybody is made of it,
and the operator has not exempted it. Whether a container is made of it the engine is asked each time.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from agent.config import ImagesConfig
from agent.containers.engine import Engine, EngineError, NotFound
from agent.containers.image_memory import ImageMemory, Pulled
from agent.containers.spec import matches

log = structlog.get_logger()

YOUNG_SECONDS = 60.0
"""An image that was used less long ago may be about to become a container."""

Full = Callable[[], Awaitable[float | None]]
"""Gives how many percent of the engine's disk are used; None where that cannot be told from here."""


def disk_of(engine: Engine) -> Full:
    """Look at the disk on which an engine keeps its images."""

    async def full() -> float | None:
        root = Path(engine.root) if engine.root else None
        try:
            found = await asyncio.to_thread(os.statvfs, root) if root is not None else None
        except OSError:
            return None  # the engine's files are not to be seen from here
        if found is None or not found.f_blocks:
            return None
        # As `df` counts: what is kept for root is neither used nor free.
        used = found.f_blocks - found.f_bfree
        return 100 * used / (used + found.f_bavail)

    return full


async def free_of(engine: Engine) -> int | None:
    """Count the bytes that are free on the disk of an engine's images; None where that cannot be told from here."""
    try:
        found = await asyncio.to_thread(os.statvfs, engine.root) if engine.root else None
    except OSError:
        return None
    return found.f_bavail * found.f_frsize if found is not None else None


async def evict(
    engine: Engine, memory: ImageMemory, config: ImagesConfig, full: Full, *, urgent: bool = False
) -> list[str]:
    """Remove images, if the disk is above its high water mark, until it is below the low one; name them.

    Args:
        urgent: The disk is known to have no room.

    Raises:
        EngineError: The engine refused.
        EngineUnavailable: The engine does not answer.
    """
    images = memory.by_age()
    if not images:
        return []
    busy = await engine.images_in_use()
    for image in images:
        if image.id in busy:
            memory.use(image.reference)
    level = await full()
    if not urgent and (level is None or level < config.high_water):
        await memory.save()
        return []
    gone: list[str] = []
    for image in memory.by_age():
        if not await _is_ours(engine, image):
            memory.forget(image)
        elif image.id not in busy and await _goes(engine, memory, config, image):
            gone.append(image.reference)
            level = await full()
            if level is None or level <= config.low_water:
                break
    await memory.save()
    return gone


async def _is_ours(engine: Engine, image: Pulled) -> bool:
    try:
        return (await engine.image(image.reference)).id == image.id
    except NotFound:
        return not image.id  # it is being pulled


async def _goes(engine: Engine, memory: ImageMemory, config: ImagesConfig, image: Pulled) -> bool:
    if not image.id or 0 <= memory.age(image) < YOUNG_SECONDS:
        return False
    if any(matches(image.reference, exempt) for exempt in config.exempt):
        return False
    try:
        await engine.remove_image(image.reference, force=False)
    except EngineError as error:
        log.info("image not removed", image=image.reference, reason=error.message)
        return False
    memory.forget(image)
    log.info("image removed to make room", image=image.reference, unused_seconds=round(memory.age(image)))
    return True
