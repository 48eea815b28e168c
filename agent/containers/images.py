"""Images: fetched as their function says, once for all who wait."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable

import structlog

from agent.config import ImagesConfig
from agent.containers.engine import Engine, EngineError, EngineUnavailable, Image, NotFound
from agent.containers.eviction import Full, disk_of, evict, free_of
from agent.containers.image_memory import ImageMemory
from agent.containers.manifest import bytes_missing, layers_of
from agent.containers.registry_login import login_to
from agent.protocol import Pull

log = structlog.get_logger()

MIB = 1024 * 1024
TRIES = 3
RETRY_SECONDS = 2.0
"""The longest wait before another try."""

_FINAL = re.compile(
    r"not found|manifest unknown|does not exist|denied|unauthorized|authentication required|no basic auth"
    r"|invalid reference|no matching manifest|not supported|no space left|verification failed|forbidden|HTTP 40[134]",
    re.IGNORECASE,
)
"""Refusals that the next second will not change."""


_PATH = re.compile(r"(?<![\w:/.-])/[^\s:\"']+")
"""A path of the engine's machine; that within a URL or the name of an image is none."""


class ImageUnavailable(Exception):
    """The image is not here and cannot be had; the text says why."""


class NoDisk(Exception):
    """The engine's disk has no room for the image, or for a container: another may have; the text says what for."""


UNPACKED = 3
"""A layer takes so many times its size: as it is sent, and unpacked beside that, about twice as large."""


def without_paths(words: str) -> str:
    """Leave the paths of its machine out of what the engine says: they are nobody else's business."""
    return _PATH.sub("…", words)


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
        config: How long a pull may take, with all its tries, who we are for a registry, and how full the disk may be.
        memory: Which images are ours.
        full: How full the disk is; None: that of the engine.
    """

    def __init__(
        self,
        engine: Engine,
        config: ImagesConfig,
        chance: Callable[[], float] = random.random,
        *,
        memory: ImageMemory | None = None,
        full: Full | None = None,
    ) -> None:
        self._engine = engine
        self._config = config
        self._memory = memory or ImageMemory(None)
        self._full = full or disk_of(engine)
        self._chance = chance
        self._pulls: dict[str, _Shared] = {}
        self.present: list[str] = []

    async def refresh(self) -> None:
        """Ask the engine anew which images are present."""
        self.present = await self._engine.images()

    async def make_room(self, *, urgent: bool = False) -> list[str]:
        """Remove images of ours that are not used where the disk is too full, and name them; see `evict`."""
        gone = await evict(self._engine, self._memory, self._config, self._full, urgent=urgent)
        if gone:
            await self.refresh()
        return gone

    async def ensure(
        self,
        reference: str,
        pulling: Callable[[], None],
        pulled: Callable[[int, int], None],
        pull: Pull = "missing",
    ) -> Image:
        """Give an image, pulled first where that is needed.

        Args:
            pulling: Called when a pull is needed.
            pulled: Called with the bytes pulled so far and in all.
            pull: When that is.

        Raises:
            ImageUnavailable: It cannot be had.
            NoDisk: There is no room for it.
            EngineUnavailable: The engine does not answer.
        """
        present = await self._present(reference)
        if present is None:
            await self._memory.pulling(reference)
        self._memory.use(reference)
        if present is not None and (pull == "missing" or "@" in reference):
            return present
        pulling()
        try:
            await self._pull_shared(reference, pulled)
        except ImageUnavailable as error:
            # A stale image runs only where its function says so.
            if present is None or pull != "newer":
                raise
            log.warning("image as it was is used", image=reference, reason=str(error))
            return present
        try:
            image = await self._engine.image(reference)
        except EngineError as error:
            raise ImageUnavailable(f"the image was pulled and is not there: {error.message}") from None
        await self._memory.got(reference, image.id)
        return image

    async def _present(self, reference: str) -> Image | None:
        try:
            return await self._engine.image(reference)
        except NotFound:
            return None
        except EngineError as error:
            raise ImageUnavailable(f"the image reference cannot be used: {error.message}") from None

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
            async with asyncio.timeout(self._config.pull_timeout):
                await self._find_room(reference)
                await self._pull_with_retries(reference, shared)
        except TimeoutError:
            raise ImageUnavailable(f"the image was not pulled within {self._config.pull_timeout:g} s") from None
        log.info("pull ended", image=reference)
        await self.refresh()

    async def _find_room(self, reference: str) -> None:
        """See that the image will fit before any of it is fetched; what is not needed goes for it."""
        if await self._present(reference) is not None:
            return  # most of it is here, and what has changed is seldom much
        login = await login_to(reference, self._config.credentials) or {}
        layers = await layers_of(reference, self._engine.arch, login)
        if layers is None:
            return
        for last in (False, True):
            free = await free_of(self._engine)
            if free is None or free >= UNPACKED * bytes_missing(layers, ()):
                return
            needed = UNPACKED * bytes_missing(layers, await self._engine.layers())
            if free >= needed:
                return
            if last or not await self.make_room(urgent=True):
                takes, left = (f"{size / MIB:.0f} MiB" for size in (needed, free))
                raise NoDisk(f"the disk has no room for the image: it takes {takes}, {left} are free")

    async def _pull_with_retries(self, reference: str, shared: _Shared) -> None:
        for attempt in range(1, TRIES + 1):
            try:
                await self._engine.pull(
                    reference,
                    shared.progress,
                    stall=self._config.stall_timeout,
                    credentials=self._config.credentials,
                )
            except EngineError as error:
                final = 400 <= error.status < 500 or _FINAL.search(error.message) is not None
                words = error.message
                failure: Exception = ImageUnavailable(f"the image cannot be pulled: {without_paths(words)}")
            except EngineUnavailable as error:
                final, words, failure = False, str(error), error  # not the image's fault
            else:
                return
            log.warning("pull failed", image=reference, attempt=attempt, final=final, reason=words)
            if "no space left" in words and attempt == 1 and await self.make_room(urgent=True):
                continue
            if final or attempt == TRIES:
                raise failure
            await asyncio.sleep(self._chance() * RETRY_SECONDS)
