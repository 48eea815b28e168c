"""What an earlier run of the agent left on the engine and can be taken up, because it is surely sound."""

from __future__ import annotations

import structlog
from msgspec import Struct

from agent.containers.engine import Engine, EngineError, Inspection, NotFound
from agent.containers.marks import Marks
from agent.containers.runtimes import Runtimes
from agent.containers.spec import ATTEMPT_LABEL, NODE_LABEL, spec_of

log = structlog.get_logger()

FED_BYTES = 64 * 1024
"""So much input fits into the pipe to a job, whether it reads or not. Of more, the engine may still hold some."""


class Left(Struct, frozen=True):
    """Containers that may be taken up again.

    Attributes:
        warm: Servers that nothing is asked of.
        jobs: Attempt, as in `spec.attempt_label`, to its job, which may have ended meanwhile.
        kept: Jobs whose engine has surely not ended since they were started.
    """

    warm: list[Inspection]
    jobs: dict[str, Inspection]
    kept: frozenset[str]

    def names(self) -> set[str]:
        """Name the containers."""
        return {found.name for found in (*self.warm, *self.jobs.values())}


async def survey(engine: Engine, node_id: str, marks: Marks, runtimes: Runtimes, default: str) -> Left:
    """Look which containers of this node can be taken up.

    Only marked ones can: see `Marks`. A job that has ended did so by itself, and left all its output, only if the
    engine saw it end. A privileged server, or one of another OCI runtime than is
    wanted now, is not kept: what the operator allows may have changed.

    Args:
        runtimes: What the operator wants.
        default: The engine's default; empty: nobody knows.

    Raises:
        EngineUnavailable: The engine does not answer.
    """
    left = Left([], {}, frozenset())
    kept = set()
    marked = marks.names()
    for listed in await engine.containers(f"{NODE_LABEL}={node_id}"):
        if listed.name not in marked:
            continue
        try:
            found = await engine.inspect(listed.id)
            remembered = await engine.remembers(found.id)
            sound = found.running or (found.started > 0 and await engine.saw_end(found.id))
        except NotFound:
            continue
        except EngineError as error:
            log.warning("container not looked at", container=listed.name, reason=error.message)
            continue
        attempt = found.labels.get(ATTEMPT_LABEL)
        if attempt is None:
            wanted = runtimes.of(found.image, spec_of(found).function) or default
            if found.running and not found.privileged and wanted in {"", found.runtime}:
                left.warm.append(found)
        elif sound:
            left.jobs[attempt] = found
            if remembered:
                kept.add(attempt)
    return Left(left.warm, left.jobs, frozenset(kept))
