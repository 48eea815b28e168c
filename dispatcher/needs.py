"""What revisions ask of a node, and whether nodes meet it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from operator import or_

from msgspec import Struct

from agent.protocol import Capabilities, Revision


class Need(Struct, frozen=True):
    """What a node must be."""

    cpu_count: float
    mem_size: int
    network_latency: float
    privileged: bool
    internet: bool
    sharing: int

    @classmethod
    def of(cls, revision: Revision) -> Need:
        """Say what a revision asks for."""
        return cls(
            revision.cpu_count,
            revision.mem_size,
            revision.network_latency,
            revision.privileged,
            revision.network == "internet",
            revision.sharing,
        )

    def is_met(self, capabilities: Capabilities) -> bool:
        """Say whether a node is what is asked for, however far away it is."""
        return (
            capabilities.cpu_count >= self.cpu_count
            and capabilities.mem_size >= self.mem_size
            and (capabilities.privileged or not self.privileged)
            and (capabilities.internet or not self.internet)
        )

    def is_near(self, capabilities: Capabilities) -> bool:
        """Say whether a node is as near as is asked for."""
        if not self.network_latency:
            return True
        return capabilities.network_latency is not None and capabilities.network_latency <= self.network_latency


class Lack(Struct, frozen=True):
    """Why no node could ever run a revision.

    Attributes:
        nodes: Whether there are nodes at all.
        missing: The requirements that none of them meets. Empty where some node meets each, and none meets all.
    """

    nodes: bool = False
    missing: tuple[str, ...] = ()

    @classmethod
    def of(cls, need: Need, nodes: Iterable[Capabilities]) -> Lack | None:
        """Look at nodes; None where one of them could."""
        met: tuple[bool, ...] | None = None
        for capabilities in nodes:
            if need.is_met(capabilities) and need.is_near(capabilities):
                return None
            checks = _checks(capabilities, need)
            met = checks if met is None else tuple(map(or_, met, checks))
        if met is None:
            return cls()
        return cls(True, tuple(name for name, by_some in zip(_names(need), met, strict=True) if not by_some))

    def with_others(self, other: Lack) -> Lack:
        """Say why none of the nodes here and there could: what one of them meets is not missing."""
        if not (self.nodes and other.nodes):
            return self if self.nodes else other
        return Lack(True, tuple(name for name in self.missing if name in other.missing))

    def __str__(self) -> str:
        """Say it for people."""
        if not self.nodes:
            return "no node is connected"
        return (
            f"no node offers {' and '.join(self.missing)}" if self.missing else "no node meets all requirements at once"
        )


def _names(need: Need) -> tuple[str, ...]:
    return (
        f"cpuCount {need.cpu_count:g}",
        f"memSize {need.mem_size} MiB",
        f"networkLatency {need.network_latency:g} ms",
        "privileged",
        "network internet",
    )


def _checks(capabilities: Capabilities, need: Need) -> tuple[bool, ...]:
    """Say which requirements a node meets, in the order of `_names`."""
    return (
        capabilities.cpu_count >= need.cpu_count,
        capabilities.mem_size >= need.mem_size,
        need.is_near(capabilities),
        capabilities.privileged or not need.privileged,
        capabilities.internet or not need.internet,
    )
