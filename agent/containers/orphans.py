"""Orphans: containers, networks and volumes of this node that nothing here knows, such as what a crash left behind.

What belongs to others is never touched: the label with this node's id is the only claim.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from agent.containers.engine import Engine, EngineError, Listed
from agent.containers.spec import NODE_LABEL
from agent.status import Orphan, OrphanKind

log = structlog.get_logger()

GRACE_SECONDS = 60.0
"""What is younger may be about to become known, or is a probe."""


async def remove_orphans(
    engine: Engine,
    node_id: str,
    known: Callable[[], set[str]],
    *,
    grace: float = GRACE_SECONDS,
    dry_run: bool = False,
) -> list[Orphan]:
    """Remove what carries this node's label and is not known, running or not, and give what that was.

    Args:
        known: Gives the names of what is in use. Asked after the engine, so that what was just being made when
            the engine listed it is known by then.
        grace: Seconds that something must have been there, by the engine's clock.
        dry_run: Remove nothing.

    Raises:
        EngineUnavailable: The engine does not answer.
    """
    label = f"{NODE_LABEL}={node_id}"
    now = await engine.now() if grace else 0.0
    kinds: list[tuple[OrphanKind, list[Listed], Callable[[str], Awaitable[object]]]] = [
        ("container", await engine.containers(label), engine.remove),
        ("network", await engine.networks(label), engine.remove_network),
        ("volume", await engine.volumes(label), engine.remove_volume),
    ]
    orphans = []
    for kind, found, remove in kinds:
        for each in found:
            if each.name in known() or (grace and now - each.created < grace):
                continue
            if dry_run or await _removed(kind, each, remove):
                orphans.append(Orphan(kind, each.name, "nothing on this node knows it"))
    return orphans


def remove_files(strays: list[Path], *, dry_run: bool) -> list[Orphan]:
    """Remove marks of containers that are not there."""
    if not dry_run:
        for file in strays:
            file.unlink(missing_ok=True)
    return [Orphan("file", str(file), "it marks a container that is not there") for file in strays]


async def _removed(kind: OrphanKind, orphan: Listed, remove: Callable[[str], Awaitable[object]]) -> bool:
    try:
        await remove(orphan.id)
    except EngineError as error:
        log.warning("orphan not removed", kind=kind, name=orphan.name, reason=error.message)
        return False
    log.info("orphan removed", kind=kind, name=orphan.name)
    return True
