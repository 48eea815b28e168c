"""Images: present ones are used as they are, missing ones are pulled, once for all who wait."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable

import structlog

from agent.containers.engine import Engine, EngineError, EngineUnavailable, Image, NotFound

log = structlog.get_logger()

TRIES = 3
RETRY_SECONDS = 2.0
"""The longest wait before another try."""

_FINAL = re.compile(
    r"not found|manifest unknown|does not exist|denied|unauthorized|authentication required|no basic auth"
    r"|invalid reference|no matching manifest|not supported|no space left",
    re.IGNORECASE,
)
"""Refusals that the next second will not change."""


class ImageUnavailable(Exception):
    """The image is not here and cannot be had; the text says why."""


class _Shared:
    """One pull, and everyone who waits for it."""

    def __init__(self) -> None:
        self.listeners: list[Callable[[int, int], None]] = []
        self.task: asyncio.Task[None] | None = None

    def progress(self, done: int, total: int) -> None:
        for listener in self.listeners:
            listener(done, total)


class Images:
    """The images of one engine.

    Args:
        pull_timeout: Seconds that a pull may take, with all its tries.
    """

    def __init__(self, engine: Engine, pull_timeout: float, chance: Callable[[], float] = random.random) -> None:
        self._engine = engine
        self._pull_timeout = pull_timeout
        self._chance = chance
        self._pulls: dict[str, _Shared] = {}
        self.present: list[str] = []

    async def refresh(self) -> None:
        """Ask the engine anew which images are present."""
        self.present = await self._engine.images()

    async def ensure(self, reference: str, pulling: Callable[[], None], pulled: Callable[[int, int], None]) -> Image:
        """Give an image, and pull it first where it is not present.

        Args:
            pulling: Called when a pull is needed.
            pulled: Called with the bytes pulled so far and in all.

        Raises:
            ImageUnavailable: It is not here and cannot be had.
            EngineUnavailable: The engine does not answer.
        """
        try:
            return await self._engine.image(reference)
        except NotFound:
            pulling()
        except EngineError as error:
            raise ImageUnavailable(f"the image reference cannot be used: {error.message}") from None
        await self._pull_shared(reference, pulled)
        try:
            return await self._engine.image(reference)
        except EngineError as error:
            raise ImageUnavailable(f"the image was pulled and is not there: {error.message}") from None

    async def _pull_shared(self, reference: str, pulled: Callable[[int, int], None]) -> None:
        shared = self._pulls.get(reference)
        if shared is None:
            shared = self._pulls[reference] = _Shared()
            shared.task = asyncio.create_task(self._pull(reference, shared))
        assert shared.task is not None  # noqa: S101 - set with the object, above
        shared.listeners.append(pulled)
        try:
            await asyncio.shield(shared.task)
        finally:
            shared.listeners.remove(pulled)
            if not shared.listeners:
                shared.task.cancel()
                if self._pulls.get(reference) is shared:
                    del self._pulls[reference]

    async def _pull(self, reference: str, shared: _Shared) -> None:
        log.info("pull begins", image=reference)
        try:
            async with asyncio.timeout(self._pull_timeout):
                await self._pull_with_retries(reference, shared)
        except TimeoutError:
            raise ImageUnavailable(f"the image was not pulled within {self._pull_timeout:g} s") from None
        log.info("pull ended", image=reference)
        await self.refresh()

    async def _pull_with_retries(self, reference: str, shared: _Shared) -> None:
        for attempt in range(1, TRIES + 1):
            try:
                await self._engine.pull(reference, shared.progress)
            except EngineError as error:
                reason = error.message
                final = 400 <= error.status < 500 or _FINAL.search(reason) is not None
            except EngineUnavailable as error:
                reason, final = str(error), False
            else:
                return
            log.warning("pull failed", image=reference, attempt=attempt, final=final, reason=reason)
            if final or attempt == TRIES:
                raise ImageUnavailable(f"the image cannot be pulled: {reason}")
            await asyncio.sleep(self._chance() * RETRY_SECONDS)
