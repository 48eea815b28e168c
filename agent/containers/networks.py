"""The engine's networks of this node, made when one is needed and removed at the end.

Their names come from the node's id, so that two agents can share one engine.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Any, Literal

import structlog

from agent.containers import firewall
from agent.containers.engine import Engine, EngineError
from agent.containers.spec import NODE_LABEL

log = structlog.get_logger()

Kind = Literal["closed", "published", "internet"]

_KINDS: tuple[Kind, ...] = ("closed", "published", "internet")
_SINGLE = "single"
_BRIDGE = "com.docker.network.bridge"


class Networks:
    """Makes and removes the networks of one node.

    ``closed`` leads nowhere but to the host; ``published`` neither, but ports of it can be published, which
    the engine does not do for a network that it knows as internal; ``internet`` leads to public addresses. Where the
    agent is itself in a container, each function's container can have a network with it alone: a ``single`` one.
    """

    def __init__(self, engine: Engine, node_id: str) -> None:
        self._engine = engine
        self._node_id = node_id
        self._short = hashlib.sha256(node_id.encode()).hexdigest()[:8]
        self._made: set[Kind] = set()

    def name(self, kind: Kind) -> str:
        """Name a network of this node."""
        return f"fernd-{self._short}-{kind}"

    async def can_attach(self) -> bool:
        """Say whether the agent runs in a container of this engine that can be put on networks."""
        return await self._engine.find_own_container()

    def new_single(self) -> str:
        """Name a network for one container alone."""
        return f"fernd-{self._short}-{_SINGLE}-{secrets.token_hex(4)}"

    async def make_single(self, name: str) -> None:
        """Make the network of one container, and put the agent's own container on it; others' names do nothing."""
        if self._is_single(name):
            await self._engine.ensure_network(name, internal=True, options={}, labels={NODE_LABEL: self._node_id})
            await self._engine.join_network(name)

    async def remove_single(self, name: str) -> None:
        """Remove the network of one container; others' names do nothing."""
        if self._is_single(name):
            await self._engine.remove_network(name)

    def _is_single(self, name: str) -> bool:
        return name.startswith(f"fernd-{self._short}-{_SINGLE}-")

    def names(self) -> set[str]:
        """Name all networks that this node may have."""
        return {self.name(kind) for kind in _KINDS}

    def forget(self) -> None:
        """Make sure anew, when one is needed next, that it is there."""
        self._made.clear()

    def bridge(self, kind: Kind) -> str:
        """Name the network's interface on the host: at most 15 characters."""
        return f"fernd{self._short}{kind[0]}"

    async def make(self, kind: Kind) -> None:
        """Make a network and put its packet filter rules in place.

        Raises:
            EngineError: The engine refused the network.
            FirewallError: The rules of ``internet`` cannot be put in place; then there is no such network.
        """
        if kind in self._made:
            return
        await self._engine.ensure_network(self.name(kind), **self._arguments(kind))
        try:
            await firewall.guard(self.bridge(kind), outbound=kind == "internet")
        except firewall.FirewallError as error:
            if kind == "internet":
                await self._engine.remove_network(self.name(kind))
                raise
            # The network itself leads nowhere; what is left open is the host's own address on it.
            log.warning("functions can reach this host on their bridge", network=self.name(kind), reason=str(error))
        self._made.add(kind)

    async def remove(self) -> None:
        """Remove the networks of this node and their rules, also ones that an earlier run made.

        One that a container is on stays, and so do its rules.
        """
        for kind in _KINDS:
            try:
                if await self._engine.remove_network(self.name(kind)):
                    await firewall.remove(self.bridge(kind))
            except EngineError as error:
                log.info("network not removed", network=self.name(kind), reason=error.message)
        self._made.clear()

    async def remove_rules(self) -> None:
        """Remove the rules of networks that are not there any more, as an agent that was killed can leave them."""
        present = {network.name for network in await self._engine.networks(f"{NODE_LABEL}={self._node_id}")}
        for kind in _KINDS:
            if self.name(kind) not in present:
                await firewall.remove(self.bridge(kind))

    def _arguments(self, kind: Kind) -> dict[str, Any]:
        options = {f"{_BRIDGE}.name": self.bridge(kind), f"{_BRIDGE}.enable_icc": "false"}
        if kind == "published":
            # Without translation of their addresses packets leave, and no answer finds the way back.
            options[f"{_BRIDGE}.enable_ip_masquerade"] = "false"
        return {"internal": kind == "closed", "options": options, "labels": {NODE_LABEL: self._node_id}}
