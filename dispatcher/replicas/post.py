"""The way of messages: what is to be told is gathered for a moment and goes out together; what comes is handed on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

import structlog

from dispatcher.replicas.messages import Letter, Message, decode, encode
from dispatcher.store.errors import StoreUnavailable
from dispatcher.store.peers import Peers

GATHER_SECONDS = 0.01
"""What comes up within so long goes out together, and what is over by then does not go out."""

MOST_WAITING = 5_000
"""Messages that wait to go out; beyond that the oldest are dropped."""

COLLECTED = 500
"""Letters that are taken out of the box at once."""

AWAY_SECONDS = 1.0

log = structlog.get_logger()


class Post:
    """Sends and receives for one dispatcher.

    Args:
        others: Gives those to whom a message for all goes.
        before_sending: Called before messages go out, to add what has gathered elsewhere.
        received: Called with each letter.
    """

    def __init__(
        self,
        peers: Peers,
        others: Callable[[], Collection[str]],
        before_sending: Callable[[], None],
        received: Callable[[Letter], None],
    ) -> None:
        self._peers = peers
        self._others = others
        self._before_sending = before_sending
        self._received = received
        self._waiting: list[tuple[str | None, Message]] = []
        self._wake = asyncio.Event()

    def tell(self, message: Message, to: str | None = None) -> None:
        """Let a message go out soon: to one dispatcher, or to all others."""
        self._waiting.append((to, message))
        if len(self._waiting) > MOST_WAITING:
            del self._waiting[0]
        self._wake.set()

    def wake(self) -> None:
        """Ask for what has gathered elsewhere to go out soon."""
        self._wake.set()

    async def send(self) -> None:
        """Send what is to be told, for as long as the dispatcher runs."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(GATHER_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Send what is to be told now."""
        self._wake.clear()
        self._before_sending()
        waiting, self._waiting = self._waiting, []
        letters: dict[str, list[Message]] = {}
        for to, message in waiting:
            for name in self._others() if to is None else [to]:
                letters.setdefault(name, []).append(message)
        if not letters:
            return
        try:
            await self._peers.post([(to, encode(self._peers.name, messages)) for to, messages in letters.items()])
        except StoreUnavailable as error:
            log.warning("other dispatchers could not be told", error=str(error), messages=len(waiting))

    async def receive(self) -> None:
        """Hand on what comes, for as long as the dispatcher runs."""
        while True:
            try:
                contents = await self._peers.collect(COLLECTED)
            except StoreUnavailable as error:
                log.warning("messages cannot be collected", error=str(error))
                await asyncio.sleep(AWAY_SECONDS)
                continue
            for content in contents:
                letter = decode(content)
                if letter is not None:
                    self._received(letter)
            if len(contents) < COLLECTED:
                await self._peers.news()
