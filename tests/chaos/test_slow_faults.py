"""Faults that take their time by nature, and so run side by side, each in a world of its own.

The line between agent and dispatcher: cut, silent in both ways or one, lossy and slow. An agent that freezes, or
dies and stays away. An engine that cannot be reached, or does not answer.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from agent.protocol import LEASE_SECONDS, SILENCE_SECONDS
from tests.chaos.audit import audit
from tests.chaos.relay import Way
from tests.chaos.tally import LONG, Tally
from tests.chaos.workload import KINDS, Entry
from tests.chaos.world import Place, World, world

pytestmark = [
    pytest.mark.engine,
    pytest.mark.chaos,
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("image"),
]

BEYOND_LEASE = LEASE_SECONDS + 8
TROUBLE_SECONDS = 90.0 if LONG else BEYOND_LEASE
"""How long the long cuts last."""

GONE_SECONDS = 60.0 if LONG else 15.0
"""How long an engine is away."""

BACK_SECONDS = 10.0
"""An agent that comes back has given back what died with it within so long, on a slow machine too."""


async def busy(made: World, seconds: float = 3.0) -> tuple[Place, list[Entry]]:
    """Let tasks of every kind run, and give a place that has some of them."""
    entries = await asyncio.gather(*(made.client.submit(kind, seconds) for kind in KINDS * 2))
    place = await made.place_of(entries[0].id)
    await made.client.submit_some(4)
    return place, list(entries)


async def silence(made: World, seconds: float, *ways: Way) -> None:
    """Nothing crosses for a while, and nobody is told. Both sides find out, and what was said twice counts once."""
    place, _ = await busy(made, seconds=min(seconds, 10.0))
    made.tally.fault(f"network silent for {seconds:.0f} s, {' and '.join(ways)}")
    noticed = {
        "agent": place.agent.when("no session"),
        "dispatcher": made.dispatcher.when("session ended", node=place.agent.node_id),
    }
    began = time.monotonic()
    place.relay.silence(*ways)
    measuring = [
        asyncio.create_task(_measure(made, f"silent connection noticed by the {who}", found, began))
        for who, found in noticed.items()
        if seconds > SILENCE_SECONDS
    ]
    await asyncio.sleep(seconds)  # the fault
    place.relay.heal()
    for measured in measuring:
        assert await measured < SILENCE_SECONDS + 15
    await audit(made)


async def _measure(made: World, what: str, found: asyncio.Future[Any], began: float) -> float:
    await found
    took = time.monotonic() - began
    made.tally.measured(what, took)
    return took


async def cut(made: World, seconds: float) -> None:
    """Connections are reset and refused for a while. What runs goes on, and its outcome is taken afterwards."""
    place, _ = await busy(made)
    made.tally.fault(f"network cut for {seconds:.0f} s")
    await place.relay.refuse()
    await asyncio.sleep(seconds)  # the fault
    place.relay.heal()
    await audit(made)


async def lossy(made: World) -> None:
    """30 % loss and 300 ms delay: slow, and right. Nothing is lost by it and nothing runs again."""
    made.tally.fault("30 % loss and 300 ms delay")
    for place in made.places:
        place.relay.delay, place.relay.loss = 0.3, 0.3
    await busy(made, seconds=1.0)
    await made.client.all_results()
    for place in made.places:
        place.relay.delay = place.relay.loss = 0.0
    await audit(made)


async def frozen(made: World) -> None:
    """An agent that slept through its leases wakes up to find its tasks in other hands, and harms nothing."""
    place, entries = await busy(made, seconds=5.0)
    made.tally.fault(f"agent frozen for {BEYOND_LEASE:.0f} s")
    place.agent.signal(signal.SIGSTOP)
    await asyncio.sleep(BEYOND_LEASE)  # the fault
    assert [entry for entry in entries if (await made.client.task(entry))["attempt"] > 1]
    place.agent.signal(signal.SIGCONT)
    await audit(made)


async def elsewhere(made: World, *, returns: bool) -> None:
    """An http task whose agent is killed runs on another: at once where the agent comes back and says so."""
    entry = await made.client.submit("http", seconds=6.0)
    place = await made.place_of(entry.id)
    began = time.monotonic()
    await made.kill(place.agent)
    if returns:
        await place.agent.start()
    again = await made.executions.ran(entry.id, times=2)
    what = "restarted" if returns else "gone for good"
    made.tally.measured(f"kill -9 of an agent, {what}, until its http task runs again", again.at - began)
    assert again.at - began < (BACK_SECONDS if returns else BEYOND_LEASE)
    if not returns:
        assert again.agent != place.agent.name
        await place.agent.start()
    await audit(made)


async def engine_gone(made: World) -> None:
    """An engine that cannot be reached has not lost its containers: nothing is declared dead, nothing runs twice."""
    place, _ = await busy(made)
    made.tally.fault(f"engine's socket gone for {GONE_SECONDS:.0f} s")
    place.tap.vanish()
    await asyncio.sleep(GONE_SECONDS)  # the fault
    await place.tap.start()
    await audit(made)


async def engine_hangs(made: World) -> None:
    """Calls that are taken and not answered hold up nobody but whoever waits for them, and not for ever."""
    place, _ = await busy(made)
    made.tally.fault(f"engine hangs for {GONE_SECONDS:.0f} s")
    place.tap.hang()
    await asyncio.sleep(GONE_SECONDS)  # the fault
    place.tap.answer()
    await audit(made)


SCENARIOS: dict[str, Callable[[World], Awaitable[None]]] = {
    "cut 5 s": lambda made: cut(made, 5.0),
    "cut long": lambda made: cut(made, TROUBLE_SECONDS),
    "silence 5 s": lambda made: silence(made, 5.0, "up", "down"),
    "silence long": lambda made: silence(made, TROUBLE_SECONDS, "up", "down"),
    "silence up": lambda made: silence(made, TROUBLE_SECONDS, "up"),
    "silence down": lambda made: silence(made, TROUBLE_SECONDS, "down"),
    "lossy": lossy,
    "frozen": frozen,
    "agent comes back": lambda made: elsewhere(made, returns=True),
    "agent stays away": lambda made: elsewhere(made, returns=False),
    "engine gone": engine_gone,
    "engine hangs": engine_hangs,
}


async def test_side_by_side(tmp_path: Path, tally: Tally) -> None:
    """Each scenario, in a world with two agents, ends in its audit."""

    async def run(name: str) -> None:
        async with world(tmp_path, tally, name, agents=2) as made:
            await SCENARIOS[name](made)

    runs = [asyncio.create_task(run(name)) for name in SCENARIOS]
    ended = await asyncio.gather(*runs, return_exceptions=True)
    if errors := [error for error in ended if isinstance(error, Exception)]:
        raise ExceptionGroup("scenarios failed", errors)
