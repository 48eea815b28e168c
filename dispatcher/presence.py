"""What is known of a node while it is connected, beside what its session needs."""

from __future__ import annotations

from msgspec import Struct

from agent.protocol import Capabilities, Credit, Load


class Presence(Struct):
    """What is known of a node that has a session here. Times are milliseconds since the epoch."""

    account: str
    version: str
    capabilities: Capabilities
    credit: Credit
    connected_ms: int
    seen_ms: int
    images: list[str]
    warm: list[str]
    load: Load = Load()
    available: bool = True
    reason: str = ""
    clock_offset: float | None = None
    """Milliseconds by which the dispatcher's clock is ahead of the node's, as the node measured it."""

    @property
    def running(self) -> int:
        """Tasks that run on the node."""
        return self.load.running
