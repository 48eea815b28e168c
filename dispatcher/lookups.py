"""What nearly every request asks of the store, remembered for a moment: whose token it is, and the function called.

What a request to this dispatcher changes holds from its answer on: `Lookups.forget` is called before it is answered.
What another dispatcher over the same store changes, the revocation of a token too, is seen here within `SECONDS`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from dispatcher.store.access import Token
from dispatcher.store.base import Store
from dispatcher.store.records import Function

SECONDS = 1.0
MOST = 4096
"""Tokens and functions that are remembered."""

K = TypeVar("K")
V = TypeVar("V")


class _Remembered(Generic[K, V]):
    """Values by key, none of which is older than `SECONDS`."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._values: dict[K, tuple[float, V]] = {}
        self._forgotten = 0
        """Counts `forget`: what was being looked up meanwhile may be of before."""

    async def get(self, key: K, find: Callable[[], Awaitable[V | None]]) -> V | None:
        """Give a value, found anew where it is not remembered. That there is none is not remembered."""
        asked = self._monotonic()
        known = self._values.get(key)
        if known is not None and asked < known[0]:
            return known[1]
        forgotten = self._forgotten
        found = await find()
        if found is None:
            self._values.pop(key, None)
        elif forgotten == self._forgotten:
            if len(self._values) >= MOST:
                self._values.clear()
            self._values[key] = (asked + SECONDS, found)
        return found

    def forget(self) -> None:
        """Find everything anew."""
        self._forgotten += 1
        self._values.clear()


class Lookups:
    """Reads of a store that are repeated many times a second."""

    def __init__(self, store: Store, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._tokens: _Remembered[bytes, Token] = _Remembered(monotonic)
        self._functions: _Remembered[tuple[str, str], Function] = _Remembered(monotonic)

    async def token_of(self, secret_hash: bytes) -> Token | None:
        """See `AccessStore.token_of`."""
        return await self._tokens.get(secret_hash, lambda: self._store.token_of(secret_hash))

    async def function(self, account: str, function_id: str) -> Function | None:
        """See `Store.function`."""
        return await self._functions.get((account, function_id), lambda: self._store.function(account, function_id))

    def forget(self) -> None:
        """See whatever has changed until now."""
        self._tokens.forget()
        self._functions.forget()
