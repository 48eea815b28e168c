"""Kill -9 of the agent, of the dispatcher and of both: at each step of a task's life, and at random instants."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from tests.chaos.audit import audit
from tests.chaos.conftest import ROUNDS
from tests.chaos.programs import Program
from tests.chaos.tally import Tally
from tests.chaos.world import World, world

pytestmark = [pytest.mark.engine, pytest.mark.chaos, pytest.mark.timeout(300), pytest.mark.usefixtures("image")]

STEPS = ("held", "accepted", "starting", "running", "spooling", "uploading", "spooled", "acknowledged")
"""Steps of `agent.task_state` that an agent logs; what comes before them has tests of its own."""

VICTIMS = ("agent", "dispatcher", "both")


def chosen(made: World, victim: str) -> list[Program]:
    agent, dispatcher = made.places[0].agent, made.dispatcher
    return {"agent": [agent], "dispatcher": [dispatcher], "both": [agent, dispatcher]}[victim]


@pytest.mark.parametrize("victim", VICTIMS)
async def test_at_each_step_of_a_life(tmp_path: Path, tally: Tally, victim: str) -> None:
    """Whoever dies the moment that a task enters a step, what was promised holds.

    One world for each victim: at each step in turn a task of every kind is under way when the kill comes.
    """
    async with world(tmp_path, tally, f"step {victim}") as made:
        agent = made.places[0].agent
        for step in STEPS:
            programs = chosen(made, victim)
            died = agent.when(
                "attempt went on", lambda dying=programs: [one.signal(signal.SIGKILL) for one in dying], state=step
            )
            for kind in ("http_once", "http", "job_once", "job"):
                await made.client.submit(kind, seconds=0.1, size=400_000 if step == "uploading" else 0)
                if died.done():
                    break
            async with asyncio.timeout(60):
                await died
            for program in programs:
                await program.ended()
            tally.fault(f"kill -9 of {' and '.join(VICTIMS[:2]) if victim == 'both' else victim} at {step}")
            await made.start_again(*programs)
        await audit(made)
