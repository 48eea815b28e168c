"""Which other dispatchers live. Each counts its beats up in the store; the clocks of others are never compared.

A dispatcher whose count stands still for `DEAD_SECONDS`, while this one could read it all the time, is taken for
dead and taken out. One that was only slow finds itself out at its next beat, and begins anew.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
from msgspec import Struct

from dispatcher.store.peers import Peers

BEAT_SECONDS = 2.0
DEAD_SECONDS = 15.0

log = structlog.get_logger()


class _Other(Struct):
    beat: int
    since: float
    """When this count was first seen, by monotonic seconds."""


class Beat(Struct, frozen=True):
    """What a beat brought to light."""

    came: list[str]
    gone: list[str]
    buried: bool
    """The others have taken this dispatcher for dead."""


class Members:
    """The dispatchers on one store, as one of them sees them."""

    def __init__(self, peers: Peers, monotonic: Callable[[], float]) -> None:
        self._peers = peers
        self._monotonic = monotonic
        self._others: dict[str, _Other] = {}
        self._last: float | None = None

    @property
    def others(self) -> list[str]:
        """The others that live."""
        return list(self._others)

    async def beat(self) -> Beat:
        """Say that this dispatcher lives, and see who else does."""
        beats = await self._peers.beat()
        now = self._monotonic()
        if beats is None:
            gone, self._others = list(self._others), {}
            return Beat([], gone, buried=True)
        # Where this one could not look for a while, neither could the others write, or it stood still itself.
        looked_away = self._last is None or now - self._last > DEAD_SECONDS / 2
        self._last = now
        came = [name for name in beats if name not in self._others]
        gone = [name for name in self._others if name not in beats]
        for name in gone:
            del self._others[name]
        for name, count in beats.items():
            known = self._others.get(name)
            if known is None or known.beat != count or looked_away:
                self._others[name] = _Other(count, now)
            elif now - known.since > DEAD_SECONDS and await self._peers.bury(name, count):
                log.warning("a dispatcher is silent and taken for dead", replica=name)
                del self._others[name]
                gone.append(name)
        for name in came:
            log.info("another dispatcher shares the store", replica=name)
        return Beat(came, gone, buried=False)
