"""Settings that change while the agent runs, and the others that do not."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from agent.config import AvailabilityConfig

LIVE = frozenset(
    {
        "log.level",
        "stop.grace_period",
        "containers.idle_seconds",
        "containers.warm_limit",
        *(f"availability.{setting}" for setting in AvailabilityConfig.__struct_fields__),
    }
)
"""Settings of the agent that a reload changes. The others are what the node was built from, and told its dispatcher."""


def changed(before: Struct, after: Struct) -> set[str]:
    """Name the settings, as ``section.key``, in which two configurations of one kind differ."""
    return {
        f"{section.encode_name}.{setting.encode_name}"
        for section in msgspec.structs.fields(before)
        for setting in msgspec.structs.fields(getattr(before, section.name))
        if getattr(getattr(before, section.name), setting.name) != getattr(getattr(after, section.name), setting.name)
    }
