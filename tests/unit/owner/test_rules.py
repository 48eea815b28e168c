"""What the owner's rules make of any readings, one after the other."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import AvailabilityConfig
from agent.owner.rules import STRENGTH, Readings, Rule, Standing, Verdict, decide

NOON = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
FULL = AvailabilityConfig(
    hours=["08:00-18:00"],
    mains_power=True,
    load_max=50,
    temperature_max=80,
    disk_min=1000,
    on_metered="drain",
    available_when=["ask"],
)


def verdict_of(config: AvailabilityConfig, **readings: Any) -> Verdict:
    return decide(config, Readings(local=readings.pop("local", NOON), **readings), {}, 0.0)[0]


@pytest.mark.parametrize(
    ("readings", "effect", "reason"),
    [
        ({}, None, ""),
        ({"on_battery": False, "load": 50.0, "temperature": 80.0, "disk_free": 1000, "metered": False, "own": ""},
         None, ""),
        ({"paused": "paused on the machine itself"}, "pause", "paused on the machine itself"),
        ({"on_battery": True}, "pause", "the machine runs on its battery"),
        ({"load": 50.1}, "pause", "others use more than 50 % of the CPUs"),
        ({"temperature": 81.0}, "pause", "the CPU is hotter than 80 °C"),
        ({"disk_free": 999}, "decline", "less than 1000 MiB of disk are free"),
        ({"metered": True}, "drain", "the network is metered"),
        ({"own": "the sun does not shine"}, "drain", "the sun does not shine"),
        ({"local": NOON.replace(hour=18)}, "decline", "outside the owner's hours"),
        ({"local": NOON.replace(hour=18), "own": "cloudy"}, "drain", "cloudy"),
        ({"disk_free": 1, "own": "cloudy", "load": 90.0}, "pause", "others use more than 50 % of the CPUs"),
    ],
)  # fmt: skip
def test_the_strongest_rule_decides(readings: dict[str, Any], effect: Any, reason: str) -> None:
    """Of the rules that say no, the strongest effect holds with its reason; what cannot be told is no obstacle."""
    assert verdict_of(FULL, **readings) == Verdict(effect, reason)


def test_a_battery_may_be_used_down_to_a_level() -> None:
    """On mains the level does not matter; on the battery it must be above the limit."""
    config = AvailabilityConfig(battery_min=40, on_battery="decline")
    assert verdict_of(config, on_battery=False, battery=5.0).effect is None
    assert verdict_of(config, on_battery=True, battery=40.0).effect is None
    assert verdict_of(config, on_battery=True, battery=39.0) == Verdict("decline", "the battery is below 40 %")


@pytest.mark.parametrize(
    ("config", "no", "near", "yes"),
    [
        (AvailabilityConfig(load_max=50), {"load": 60.0}, {"load": 45.0}, {"load": 39.0}),
        (AvailabilityConfig(temperature_max=80), {"temperature": 85.0}, {"temperature": 77.0}, {"temperature": 74.0}),
        (AvailabilityConfig(disk_min=1000), {"disk_free": 900}, {"disk_free": 1050}, {"disk_free": 1101}),
        (
            AvailabilityConfig(battery_min=40),
            {"on_battery": True, "battery": 39.0},
            {"on_battery": True, "battery": 42.0},
            {"on_battery": True, "battery": 46.0},
        ),
    ],
)
def test_a_limit_has_a_margin_on_the_way_back(
    config: AvailabilityConfig, no: dict[str, Any], near: dict[str, Any], yes: dict[str, Any]
) -> None:
    """A reading just on the right side is enough at first, and not after a no; then it takes a while, too."""
    assert verdict_of(config, **near).effect is None
    verdict, standings = decide(config, Readings(NOON, **no), {}, 0.0)
    assert verdict.effect is not None
    for readings, now, still in ((near, 500.0, True), (yes, 600.0, True), (yes, 659.0, True), (yes, 660.0, False)):
        verdict, standings = decide(config, Readings(NOON, **readings), standings, now)
        assert (verdict.effect is not None) is still, now


def test_the_owners_own_word_and_the_clock_hold_at_once() -> None:
    """A pause that ends, and hours that begin, need no time to settle."""
    config = AvailabilityConfig(hours=["08:00-18:00"])
    for no in (Readings(NOON, paused="paused"), Readings(NOON.replace(hour=7))):
        _, standings = decide(config, no, {}, 0.0)
        assert decide(config, Readings(NOON), standings, 0.1)[0] == Verdict()


effects = st.sampled_from(sorted(STRENGTH))
configs = st.builds(
    AvailabilityConfig,
    hours=st.sampled_from([[], ["08:00-18:00"], ["mon 22:00-06:00", "sat sun 00:00-24:00"]]),
    outside_hours=effects,
    mains_power=st.booleans(),
    battery_min=st.none() | st.floats(0, 100),
    on_battery=effects,
    load_max=st.none() | st.floats(0, 100),
    under_load=effects,
    temperature_max=st.none() | st.floats(0, 120),
    when_hot=effects,
    disk_min=st.none() | st.integers(0, 10_000),
    when_disk_low=effects,
    on_metered=st.sampled_from(["ignore", *sorted(STRENGTH)]),
    available_when=st.sampled_from([[], ["ask"]]),
    when_unavailable=effects,
    settle=st.floats(0, 120),
)
readings = st.builds(
    Readings,
    local=st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)),  # noqa: DTZ001 - hypothesis wants them bare
    paused=st.sampled_from(["", "paused"]),
    on_battery=st.none() | st.booleans(),
    battery=st.none() | st.floats(0, 100),
    load=st.none() | st.floats(0, 100),
    temperature=st.none() | st.floats(-20, 120),
    disk_free=st.none() | st.integers(0, 20_000),
    metered=st.none() | st.booleans(),
    own=st.none() | st.sampled_from(["", "cloudy"]),
)


@given(configs, st.lists(st.tuples(readings, st.floats(0.1, 60)), min_size=1, max_size=12))
def test_any_course_of_readings(config: AvailabilityConfig, course: list[tuple[Readings, float]]) -> None:
    """A no has an effect and a reason; what said no at first sight says so at any time; a yes needs time to settle."""
    now, past = 0.0, []
    standings: dict[Rule, Standing] = {}
    for each, seconds in course:
        now += seconds
        fresh = decide(config, each, {}, now)[0]
        verdict, standings = decide(config, each, standings, now)
        assert (verdict.effect is None) is (verdict.reason == "")
        if fresh.effect is not None:
            assert verdict.effect is not None
            assert STRENGTH[verdict.effect] >= STRENGTH[fresh.effect]
        past.append((now, verdict, standings))
    for (_, _, before), (after, _, standing) in pairwise(past):
        for rule in before.keys() - standing.keys() - {"paused", "hours"}:
            since = before[rule].content_since
            assert config.settle == 0 or (since is not None and after - since >= config.settle)


@given(readings)
def test_without_rules_only_the_owner_himself_stands_in_the_way(each: Readings) -> None:
    """A node that was given no rules takes work whatever its machine is like."""
    unpaused = msgspec.structs.replace(each, paused="")
    assert decide(AvailabilityConfig(), unpaused, {}, 0.0) == (Verdict(), {})
    assert (verdict_of(AvailabilityConfig(), paused="p", local=NOON)) == Verdict("pause", "p")
