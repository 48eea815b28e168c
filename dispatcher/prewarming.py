"""Containers that wait for their first task: which revisions want some, told to every node.

A node with the image keeps as many ready as the function says, as far as its memory goes. A change is told at once to
the nodes that have a session here; other dispatchers over the same store see it when they look next.
"""

from __future__ import annotations

import asyncio

import msgspec
import structlog

from agent.protocol import FRAME_LIMIT, Prewarm, Revision
from dispatcher.queue import Queue
from dispatcher.store.base import Store
from dispatcher.store.errors import StoreUnavailable

log = structlog.get_logger()

LOOK_SECONDS = 30.0

REVISIONS = 100
"""Of so many functions, the newest, nodes hear."""

MESSAGE_BYTES = FRAME_LIMIT // 2


class Prewarming:
    """Keeps nodes informed. `run` once the store is open."""

    def __init__(self, store: Store, queue: Queue) -> None:
        self._store = store
        self._queue = queue
        self._told: list[Revision] = []
        self._look = asyncio.Event()

    def changed(self) -> None:
        """Look soon: a function wants containers kept ready, or no more."""
        self._look.set()

    async def run(self) -> None:
        """Look and tell, for as long as the dispatcher runs."""
        while True:
            self._look.clear()
            try:
                await self._tell()
            except StoreUnavailable as error:
                log.warning("functions that want warm containers not read", error=str(error))
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._look.wait()
            except TimeoutError:
                pass

    async def _tell(self) -> None:
        wanted = _within(await self._store.warm_revisions(REVISIONS), MESSAGE_BYTES)
        if wanted != self._told:
            self._told = wanted
            self._queue.announce(Prewarm(wanted))


def _within(revisions: list[Revision], limit: int) -> list[Revision]:
    """Leave out, at the end, what would make a message too long: an environment may be large."""
    size = 0
    for count, revision in enumerate(revisions):
        size += len(msgspec.msgpack.encode(revision))
        if size > limit:
            return revisions[:count]
    return revisions
