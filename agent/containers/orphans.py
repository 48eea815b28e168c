"""Orphans: containers of this node that nobody here knows, such as what a crash left behind."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from agent.containers.engine import Engine, EngineError
from agent.containers.spec import NODE_LABEL

log = structlog.get_logger()


async def remove_orphans(engine: Engine, node_id: str, known: Callable[[], set[str]]) -> int:
    """Remove every container that carries this node's label and is not known, running or not; give how many.

    Containers of others are never touched: the label with this node's id is the only claim.

    Args:
        known: Gives the names of containers in use. Asked after the engine, so that one which was just being
            made when the engine listed it is known by then.

    Raises:
        EngineUnavailable: The engine does not answer.
    """
    found = await engine.containers(f"{NODE_LABEL}={node_id}")
    orphans = [container for container in found if container.name not in known()]
    removed = 0
    for orphan in orphans:
        try:
            await engine.remove(orphan.id)
        except EngineError as error:
            log.warning("orphan not removed", container=orphan.name, reason=error.message)
        else:
            removed += 1
            log.info("orphan removed", container=orphan.name)
    return removed
