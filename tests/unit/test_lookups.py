"""What is remembered of the store: for how long, and what ends it earlier."""

from __future__ import annotations

import asyncio
from typing import cast

from dispatcher.lookups import MOST, SECONDS, Lookups
from dispatcher.store.access import Token
from dispatcher.store.base import Store

KNOWN = Token("t", "account", "name", frozenset(), 0)


class CountingStore:
    """Knows one token, and how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.token: Token | None = KNOWN
        self.answers = asyncio.Event()
        self.answers.set()

    async def token_of(self, _: bytes) -> Token | None:
        self.asked += 1
        found = self.token
        await self.answers.wait()
        return found


def made() -> tuple[CountingStore, Lookups, list[float]]:
    store, now = CountingStore(), [0.0]
    return store, Lookups(cast("Store", store), lambda: now[0]), now


async def test_asks_the_store_once_in_a_while() -> None:
    """Within the time the store is not asked again; after it, it is."""
    store, lookups, now = made()
    for _ in range(3):
        assert await lookups.token_of(b"hash") is KNOWN
    assert store.asked == 1
    now[0] = SECONDS
    await lookups.token_of(b"hash")
    assert store.asked == 2


async def test_a_change_is_seen_at_once() -> None:
    """What was revoked here is not known any more, and what is unknown is never remembered."""
    store, lookups, _ = made()
    await lookups.token_of(b"hash")
    store.token = None
    lookups.forget()
    assert await lookups.token_of(b"hash") is None
    store.token = KNOWN
    assert await lookups.token_of(b"hash") is KNOWN


async def test_an_answer_from_before_a_change_is_not_remembered() -> None:
    """A look-up that was under way while something changed may have seen what was before."""
    store, lookups, _ = made()
    store.answers.clear()
    asking = asyncio.create_task(lookups.token_of(b"hash"))
    await asyncio.sleep(0)
    store.token = None
    lookups.forget()
    store.answers.set()
    assert await asking is KNOWN
    assert await lookups.token_of(b"hash") is None


async def test_what_is_remembered_is_bounded() -> None:
    """However many tokens there are."""
    _, lookups, _ = made()
    for number in range(MOST + 10):
        await lookups.token_of(str(number).encode())
    assert len(lookups._tokens._values) <= MOST
