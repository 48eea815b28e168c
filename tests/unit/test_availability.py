"""Whether the node takes work, and what people are told when it does not."""

from __future__ import annotations

from agent.availability import Availability


def test_the_most_telling_reason_is_shown() -> None:
    """A node that drains says so, whatever else stands in the way, and each change is told once."""
    told: list[str] = []
    availability = Availability({}, lambda: told.append(availability.reason))
    assert availability.available
    availability.block("engine", "no engine")
    availability.block("engine", "no engine")
    availability.block("draining", "draining")
    availability.block("engine", "still no engine")
    availability.clear("draining")
    assert not availability.available
    availability.clear("engine")
    availability.clear("engine")
    assert availability.available
    assert told == ["no engine", "draining", "still no engine", ""]
