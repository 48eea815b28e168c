"""Kill -9 of the agent, of the dispatcher and of both: at each step of a task's life, and at random instants."""

from __future__ import annotations

import asyncio
import platform
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.chaos.audit import audit
from tests.chaos.programs import Program
from tests.chaos.relay import Way
from tests.chaos.tally import LONG, ROUNDS, Tally
from tests.chaos.workload import KINDS
from tests.chaos.world import World, world
from tests.contract.containers.registry import Registry

pytestmark = [pytest.mark.engine, pytest.mark.chaos, pytest.mark.timeout(300), pytest.mark.usefixtures("image")]

STEPS = ("held", "accepted", "starting", "running", "spooling", "uploading", "spooled", "acknowledged")
"""Steps of `agent.task_state` that an agent logs. What comes before them, and the pull, have tests of their own."""

SOME_STEPS = 3
"""Of them where the run is short and the dispatcher dies: each time the agent waits longer before it asks again."""

VICTIMS = ("agent", "dispatcher", "agent and dispatcher")

STORM_SECONDS = 15.0

CANCELLED = 0.1
"""So often a task of a storm is cancelled, unless it has just ended."""


def chosen(made: World, victim: str) -> list[Program]:
    programs: list[Program] = [made.places[0].agent, made.dispatcher]
    return [program for program in programs if program.kind in victim]


async def start_again(*programs: Program) -> None:
    await asyncio.gather(*(program.start() for program in programs))


@pytest.mark.parametrize("victim", VICTIMS)
async def test_at_each_step_of_a_life(tmp_path: Path, tally: Tally, victim: str) -> None:
    """Whoever dies the moment that a task enters a step, what was promised holds.

    At each step in turn tasks of every kind are under way. The kill follows the agent's line about the step
    within a millisecond or so, so that it falls into the step or into the beginning of the next.
    """
    async with world(tmp_path, tally, f"step {victim}") as made:
        for step in STEPS if LONG or victim == "agent" else made.rng.sample(STEPS, SOME_STEPS):
            programs = chosen(made, victim)

            def die(programs: list[Program] = programs) -> None:
                for program in programs:
                    program.signal(signal.SIGKILL)

            died = made.places[0].agent.when("attempt went on", die, state=step)
            size = 400_000 if step == "uploading" else 0
            submitting = asyncio.gather(*(made.client.submit(kind, 0.1, size) for kind in KINDS))
            async with asyncio.timeout(60):
                await died
            for program in programs:
                await program.ended()
            tally.fault(f"kill -9 of {victim}, {step}")
            await start_again(*programs)
            await submitting
        await audit(made)


@pytest.mark.parametrize("victim", VICTIMS)
async def test_before_a_node_has_it(tmp_path: Path, tally: Tally, victim: str) -> None:
    """A task that was just answered 201, and one whose offer is on the wire and does not arrive, are not lost."""

    async def offered(made: World) -> None:
        entries = [await made.client.submit(kind) for kind in KINDS]
        await made.client.until_state("offered", *entries)

    async def queued(made: World) -> None:
        await asyncio.gather(*(made.client.submit(kind) for kind in KINDS))

    steps: dict[str, Callable[[World], Awaitable[None]]] = {"queued": queued, "offered": offered}
    async with world(tmp_path, tally, f"early {victim}") as made:
        for step, reach in steps.items():
            made.places[0].relay.silence("down")
            await reach(made)
            programs = chosen(made, victim)
            await made.kill(*programs)
            tally.fault(f"kill -9 of {victim}, {step}")
            made.places[0].relay.heal()
            await start_again(*programs)
            await made.client.all_results()
        await audit(made)


@pytest.mark.parametrize("victim", VICTIMS)
async def test_while_an_image_is_pulled(tmp_path: Path, tally: Tally, victim: str) -> None:
    """A pull that somebody dies in is begun again, and the task ends as if nothing had been."""
    async with world(tmp_path, tally, f"pull {victim}") as made, Registry(platform.machine()) as registry:
        registry.open.clear()
        function = await made.client.create_function("job", registry.image)
        pulling = made.places[0].agent.when("attempt went on", state="pulling")
        await made.client.submit("job", silent_function=function)
        async with asyncio.timeout(60):
            await pulling
        programs = chosen(made, victim)
        await made.kill(*programs)
        tally.fault(f"kill -9 of {victim}, pulling")
        registry.open.set()
        await start_again(*programs)
        await audit(made)
        made.remove_image(registry.image)


@pytest.mark.parametrize("number", range(ROUNDS))
async def test_at_random_instants(tmp_path: Path, tally: Tally, number: int) -> None:
    """Under a steady load of every kind, agents, dispatcher and connections fail at random; the books balance."""
    async with world(tmp_path, tally, f"storm {number}", agents=2) as made:
        over = time.monotonic() + STORM_SECONDS
        storm = asyncio.create_task(_storm(made, over))
        while time.monotonic() < over:
            await made.client.submit_some(1)
            if made.rng.random() < CANCELLED and await made.client.cancel(made.rng.choice(made.client.ledger[-10:])):
                tally.fault("cancelled by its owner")
            await asyncio.sleep(made.rng.uniform(0, 0.5))  # the load itself, not a wait for anything
        await storm
        await audit(made)


async def _storm(made: World, over: float) -> None:
    """Do one harm after the other. What was harmed is well again when this returns."""
    while time.monotonic() < over:
        await asyncio.sleep(made.rng.uniform(0.2, 2.0))
        place = made.rng.choice(made.places)
        harm = made.rng.choice(["agent", "agent", "dispatcher", "agent and dispatcher", "reset", "silence", "freeze"])
        if harm == "reset":
            made.tally.fault("connections reset")
            await place.relay.reset()
        elif harm == "silence":
            made.tally.fault("network silent for up to 3 s")
            ways: tuple[Way, ...] = made.rng.choice([("up",), ("down",), ("up", "down")])
            place.relay.silence(*ways)
            await asyncio.sleep(made.rng.uniform(0.2, 3.0))
            place.relay.heal()
        elif harm == "freeze":
            made.tally.fault("agent frozen for up to 3 s")
            place.agent.signal(signal.SIGSTOP)
            await asyncio.sleep(made.rng.uniform(0.2, 3.0))
            place.agent.signal(signal.SIGCONT)
        else:
            programs: list[Program] = [place.agent, made.dispatcher]
            programs = [program for program in programs if program.kind in harm]
            await made.kill(*programs)
            await start_again(*programs)


async def test_two_agents_on_one_engine(tmp_path: Path, tally: Tally) -> None:
    """An agent that dies and comes back clears up after itself alone: the other's work is not touched."""
    async with world(tmp_path, tally, "two agents", agents=2) as made:
        entries = [await made.client.submit(kind, seconds=4.0) for kind in KINDS * 2]
        places = {entry.id: await made.place_of(entry.id) for entry in entries}
        victim = made.places[0]
        assert set(map(id, places.values())) == set(map(id, made.places)), "both agents have work"
        await made.kill(victim.agent)
        await victim.agent.start_ready()
        await made.client.all_results()
        for entry in entries:
            if places[entry.id] is not victim:
                task = await made.client.task(entry)
                assert (task["status"], task["attempt"]) == (200, 1), task
                assert len(made.executions.of(entry.id)) == 1
        await audit(made)
