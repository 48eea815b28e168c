"""Whether the machine itself is short of memory, whatever functions may use by the operator's word."""

from __future__ import annotations

import psutil

from agent.admission import RESERVE

MIB = 1024 * 1024


def short_of_memory() -> bool:
    """Say whether less is left than the machine needs for itself; see `agent.admission.capacity`."""
    found = psutil.virtual_memory()
    return bool(found.available < min(RESERVE * MIB, found.total // 10))
