"""How long calls to a store take, and how many fail: for ``/metrics``."""

from __future__ import annotations

from agent.calls import Calls
from dispatcher.store.errors import StoreUnavailable


class StoreCalls:
    """The calls that read, and those that write and are answered when their write is committed."""

    def __init__(self) -> None:
        self.read = Calls(_failure, _AWAY)
        self.write = Calls(_failure, _AWAY)

    @property
    def failures(self) -> dict[str, int]:
        """How many of either found the database away."""
        return {"read": self.read.failures[_AWAY], "write": self.write.failures[_AWAY]}


_AWAY = "away"


def _failure(error: BaseException) -> str | None:
    return _AWAY if isinstance(error, StoreUnavailable) else None
