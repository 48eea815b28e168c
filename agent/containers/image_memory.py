"""Which images this agent pulled, and when each was last used.

In a file, since a restart must not make them strangers that stay for ever; and it is only believed as far as the engine
agrees: what is somebody else's by now is let go of.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog
from msgspec import Struct

log = structlog.get_logger()


class Pulled(Struct):
    """An image that was pulled.

    Attributes:
        reference: The name that it was pulled by; its id, where that name is another image's by now.
        id: The engine's; empty from before the pull until it has ended.
        used: When it was last used, in epoch seconds.
    """

    reference: str
    id: str
    used: float


class ImageMemory:
    """The images that were pulled.

    Args:
        file: Where they are written down; None: nowhere.
    """

    def __init__(self, file: Path | None, wall: Callable[[], float] = time.time) -> None:
        self._file = file
        self._wall = wall
        self._pulled = {each.reference: each for each in _read(file)}
        self._writing = asyncio.Lock()
        self._changed = False

    def by_age(self) -> list[Pulled]:
        """List them, the one that was unused for longest first."""
        return sorted(self._pulled.values(), key=lambda each: each.used)

    def age(self, image: Pulled) -> float:
        """Say for how many seconds an image was not used; negative where the clock was set back."""
        return self._wall() - image.used

    def use(self, reference: str) -> None:
        """Note that an image is used now, if it is one of ours. The next `save` writes it down."""
        if (image := self._pulled.get(reference)) is not None:
            image.used = self._wall()
            self._changed = True

    async def pulling(self, reference: str) -> None:
        """Note, before it is asked for, that an image which is not here will be ours."""
        self._pulled[reference] = Pulled(reference, "", self._wall())
        self._changed = True
        await self.save()

    async def got(self, reference: str, image_id: str) -> None:
        """Note which image a name of ours stands for. The one that it stood for before has no name any more."""
        known = self._pulled.get(reference)
        if known is None:
            return
        if known.id not in {"", image_id}:
            self._pulled[known.id] = Pulled(known.id, known.id, known.used)
        self._pulled[reference] = Pulled(reference, image_id, self._wall())
        self._changed = True
        await self.save()

    def forget(self, image: Pulled) -> None:
        """Let go of an image that is gone, or not ours any more."""
        self._pulled.pop(image.reference, None)
        self._changed = True

    async def save(self) -> None:
        """Write down what changed. Where that fails an image stays longer than it should: no reason to stop."""
        if self._file is None or not self._changed:
            return
        async with self._writing:
            self._changed = False
            try:
                await asyncio.to_thread(_write, self._file, msgspec.json.encode(self.by_age()))
            except OSError as error:
                log.warning("images that were pulled cannot be written down", reason=str(error))


def _read(file: Path | None) -> list[Pulled]:
    try:
        return msgspec.json.decode(file.read_bytes(), type=list[Pulled]) if file is not None else []
    except FileNotFoundError:
        return []
    except (OSError, msgspec.MsgspecError) as error:
        log.warning("images that were pulled cannot be read, so they stay", file=str(file), reason=str(error))
        return []


def _write(file: Path, content: bytes) -> None:
    partial = file.with_suffix(".new")
    with partial.open("wb") as target:
        target.write(content)
        target.flush()
        os.fsync(target.fileno())
    partial.replace(file)
