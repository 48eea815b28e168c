"""Which settings change while the agent runs."""

from __future__ import annotations

import msgspec

from agent.config import AgentConfig, CapacityConfig, StopConfig
from agent.reload import LIVE, changed


def test_what_changed_is_named() -> None:
    """By section and key, and nothing else."""
    before = AgentConfig()
    after = msgspec.structs.replace(before, stop=StopConfig(grace_period=60), capacity=CapacityConfig(slots=2))
    assert changed(before, after) == {"stop.grace_period", "capacity.slots"}
    assert changed(before, before) == set()


def test_what_is_live_is_a_setting() -> None:
    """Each name of the list is one of the agent's settings."""
    config = AgentConfig()
    for name in LIVE:
        section, _, key = name.partition(".")
        assert hasattr(getattr(config, section), key)
