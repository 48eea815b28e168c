"""All that a node has on its engine, removed without its agent: for when that was killed and is not to run again."""

from __future__ import annotations

from agent.containers.engine import Engine
from agent.containers.networks import Networks
from agent.containers.orphans import remove_orphans
from agent.status import Orphan


async def remove_all(node_id: str, *, dry_run: bool = False) -> list[Orphan]:
    """Remove the containers, networks, volumes and packet filter rules of a node, and give what that was.

    Rules are not listed: they belong to a network, and nobody knows them by name.

    Raises:
        EngineUnavailable: The engine does not answer.
    """
    engine = Engine()
    try:
        await engine.connect()
        found = await remove_orphans(engine, node_id, set, grace=0, dry_run=dry_run)
        if not dry_run:
            await Networks(engine, node_id).remove_rules()
    finally:
        await engine.close()
    return found
