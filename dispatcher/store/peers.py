"""Dispatchers that share a store: which of them live, where each node has its session, and what they tell each other.

Nothing that counts depends on a message: it only makes others look sooner. What a dispatcher must not miss it
finds in the store, by looking now and then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from agent.protocol import Lease, Revision
from dispatcher.store.records import Leased, State


class Seated(Struct, frozen=True):
    """A node whose session has just begun here: who had it before, and which leases it holds."""

    before: str | None
    held: list[Leased]


class SeatShown(Struct, frozen=True):
    """What the dispatcher that has a node's session last said of the node."""

    node: str
    replica: str
    presence: bytes


class EndShown(Struct, frozen=True):
    """How a task ended."""

    task: str
    state: State
    status: int
    error: str | None


class Peers(Protocol):
    """What a shared store does for its dispatchers. Every method may raise `StoreUnavailable`."""

    @property
    def name(self) -> str:
        """The name of this dispatcher among the others."""

    # who lives

    async def beat(self) -> dict[str, int] | None:
        """Count this dispatcher's beats up and give those of the others; None where they had taken it for dead."""

    async def bury(self, name: str, beat: int) -> bool:
        """Take out a dispatcher that has been silent since this beat; False where it was not."""

    async def adopt(self) -> list[Leased]:
        """Take over the nodes that hold tasks and whose dispatcher is no more, and give what they hold."""

    # where nodes are

    async def sit(self, node: str, presence: bytes) -> Seated:
        """Note that a node has its session here. From now on only this dispatcher may say that it lost a task."""

    async def rise(self, node: str) -> None:
        """Note that a node has no session here any more, if it was here last."""

    async def show(self, presences: Sequence[tuple[str, bytes]]) -> list[str]:
        """Let others see what nodes say of themselves; give those of them that are elsewhere by now."""

    async def shown(self, nodes: Sequence[str]) -> list[SeatShown]:
        """Give what is shown of nodes that have a session."""

    async def shown_of(self, account: str, most: int) -> list[SeatShown]:
        """Give what is shown of the nodes of an account that have a session."""

    # messages

    async def post(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Put messages into the boxes of other dispatchers, and wake them."""

    async def collect(self, most: int) -> list[bytes]:
        """Take messages out of this dispatcher's box, oldest first."""

    async def news(self) -> None:
        """Return when there may be something to collect, at the latest after a while."""

    # what a message may have failed to tell

    async def revisions(self, keys: Sequence[str]) -> list[tuple[Revision, str]]:
        """Find revisions by their keys, and the accounts whose they are."""

    async def ended(self, tasks: Sequence[str]) -> list[EndShown]:
        """Say of tasks which have ended, and how."""

    async def taken(self, leases: Sequence[Lease]) -> list[Lease]:
        """Say of leases which are good no longer: the task has ended, or has another."""
