"""The names of bodies that are kept by a key."""

from __future__ import annotations

from agent.protocol import Lease


def result_key(lease: Lease) -> str:
    """Name the body of a result that is uploaded beside the session, before its outcome is recorded."""
    return f"result:{lease.task}:{lease.token.hex()}"


def task_of_result(key: str) -> str | None:
    """Give the task that a key of `result_key` belongs to; None for other keys."""
    kind, _, rest = key.partition(":")
    return rest.partition(":")[0] if kind == "result" else None
