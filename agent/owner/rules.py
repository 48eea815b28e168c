"""PURE. What the owner's rules make of the readings of a moment: whether this node takes work, and why not.

A rule that says no is believed at once. It must be content for a while before work is taken again, and by a margin,
so that a node whose machine hovers about a limit does not come and go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Literal

from msgspec import Struct

from agent.config import AvailabilityConfig, Effect
from agent.owner.hours import any_hold

Rule = Literal["paused", "own", "power", "load", "temperature", "disk", "metered", "hours"]

STRENGTH: dict[Effect, int] = {"decline": 1, "drain": 2, "pause": 3}

LOAD_MARGIN = 0.8
"""Of the limit: others must use less than so much of it."""

TEMPERATURE_MARGIN = 5.0
BATTERY_MARGIN = 5.0
DISK_MARGIN = 1.1


class Readings(Struct, frozen=True):
    """What can be told of the machine. None: it cannot be told, and does not stand in the way.

    Attributes:
        local: The time in the owner's zone.
        paused: Why the owner has paused the node himself; empty if he has not.
        on_battery: The machine runs on its battery.
        battery: Percent that is left in it.
        load: Percent of all CPUs that others than this node use.
        temperature: Degrees Celsius of the hottest CPU sensor.
        disk_free: MiB on the fuller of the disks that the node fills.
        metered: Who pays for the network pays by the byte.
        own: Why the owner's command said no; empty: it said yes.
    """

    local: datetime
    paused: str = ""
    on_battery: bool | None = None
    battery: float | None = None
    load: float | None = None
    temperature: float | None = None
    disk_free: int | None = None
    metered: bool | None = None
    own: str | None = None


class Standing(Struct, frozen=True):
    """A rule that has said no.

    Attributes:
        reason: What it said last.
        content_since: Since when it has been content; None while it says no.
    """

    reason: str
    content_since: float | None = None


class Verdict(Struct, frozen=True):
    """What follows. Without an effect work is taken, and there is no reason."""

    effect: Effect | None = None
    reason: str = ""


Standings = Mapping[Rule, Standing]


def decide(
    config: AvailabilityConfig, readings: Readings, before: Standings, now: float
) -> tuple[Verdict, dict[Rule, Standing]]:
    """Judge readings.

    Args:
        before: How the rules stood after the last look; at first, empty.
        now: Seconds of a clock that only goes forward.

    Returns:
        The strongest effect of the rules that say no, the first of them giving the reason; and how they stand.
    """
    standings: dict[Rule, Standing] = {}
    for rule, (judge, _) in _RULES.items():
        was = before.get(rule)
        reason = judge(config, readings, was is not None)
        if reason:
            standings[rule] = Standing(reason)
        elif was is not None and rule not in _EXACT:
            since = was.content_since if was.content_since is not None else now
            if now - since < config.settle:
                standings[rule] = Standing(was.reason, since)
    verdict = Verdict()
    for rule, standing in standings.items():
        effect = _RULES[rule][1](config)
        if verdict.effect is None or STRENGTH[effect] > STRENGTH[verdict.effect]:
            verdict = Verdict(effect, standing.reason)
    return verdict, standings


def _paused(_: AvailabilityConfig, readings: Readings, _held: bool) -> str:
    return readings.paused


def _own(config: AvailabilityConfig, readings: Readings, _held: bool) -> str:
    return (readings.own or "") if config.available_when else ""


def _power(config: AvailabilityConfig, readings: Readings, held: bool) -> str:
    if not readings.on_battery:
        return ""
    if config.mains_power:
        return "the machine runs on its battery"
    least = config.battery_min
    if least is None or readings.battery is None:
        return ""
    low = readings.battery < min(100, least + BATTERY_MARGIN * held)
    return f"the battery is below {least:g} %" if low else ""


def _load(config: AvailabilityConfig, readings: Readings, held: bool) -> str:
    most = config.load_max
    if most is None or readings.load is None or readings.load <= (most * LOAD_MARGIN if held else most):
        return ""
    return f"others use more than {most:g} % of the CPUs"


def _temperature(config: AvailabilityConfig, readings: Readings, held: bool) -> str:
    most = config.temperature_max
    if most is None or readings.temperature is None or readings.temperature <= most - TEMPERATURE_MARGIN * held:
        return ""
    return f"the CPU is hotter than {most:g} °C"


def _disk(config: AvailabilityConfig, readings: Readings, held: bool) -> str:
    least = config.disk_min
    if least is None or readings.disk_free is None or readings.disk_free >= least * (DISK_MARGIN if held else 1):
        return ""
    return f"less than {least} MiB of disk are free"


def _metered(config: AvailabilityConfig, readings: Readings, _held: bool) -> str:
    return "the network is metered" if config.on_metered != "ignore" and readings.metered else ""


def _hours(config: AvailabilityConfig, readings: Readings, _held: bool) -> str:
    return "" if not config.hours or any_hold(config.hours_read, readings.local) else "outside the owner's hours"


Judge = Callable[[AvailabilityConfig, Readings, bool], str]
"""Gives why a rule says no; empty if it is content. The last argument: it has said no before, and wants a margin."""

_RULES: dict[Rule, tuple[Judge, Callable[[AvailabilityConfig], Effect]]] = {
    "paused": (_paused, lambda _: "pause"),
    "own": (_own, lambda config: config.when_unavailable),
    "power": (_power, lambda config: config.on_battery),
    "load": (_load, lambda config: config.under_load),
    "temperature": (_temperature, lambda config: config.when_hot),
    "disk": (_disk, lambda config: config.when_disk_low),
    "metered": (_metered, lambda config: "decline" if config.on_metered == "ignore" else config.on_metered),
    "hours": (_hours, lambda config: config.outside_hours),
}
"""The rules, in the order in which their reasons are told."""

_EXACT: frozenset[Rule] = frozenset({"paused", "hours"})
"""Rules that hover about nothing."""
