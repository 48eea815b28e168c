"""The engine dies under load and comes back. It is one of our own: nobody else's containers die with it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import docker
import psutil
import pytest

from tests.chaos.audit import audit
from tests.chaos.tally import Tally
from tests.chaos.witness import watching
from tests.chaos.workload import IMAGE, KINDS
from tests.chaos.world import World, world
from tests.second_engine import SecondEngine, needs_second_engine

pytestmark = [
    pytest.mark.engine,
    pytest.mark.chaos,
    pytest.mark.long,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("image"),
    needs_second_engine,
]


def _begin(engine: SecondEngine, live_restore: bool) -> None:
    engine.start(live_restore=live_restore)
    with closing(docker.APIClient(version="auto")) as machine:
        engine.load(machine.get_image(IMAGE))


@asynccontextmanager
async def world_on_own_engine(
    directory: Path, tally: Tally, name: str, *, live_restore: bool
) -> AsyncIterator[tuple[World, SecondEngine]]:
    """Have a world for a while whose engine is its own, with a witness of what runs there."""
    engine = await asyncio.to_thread(SecondEngine)
    try:
        await asyncio.to_thread(_begin, engine, live_restore)
        with watching(engine) as witness:
            async with world(directory, tally, name, engine=str(engine.socket)) as made:
                made.witness = witness
                yield made, engine
    finally:
        await asyncio.to_thread(engine.remove)


def _lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("live_restore", [False, True], ids=["containers die with it", "containers live on"])
async def test_dockerd_is_killed_under_load(tmp_path: Path, tally: Tally, live_restore: bool) -> None:
    """Whether containers outlive it or not: the node says why it takes no work, and takes work again by itself."""
    name = f"dockerd {live_restore}"
    async with world_on_own_engine(tmp_path, tally, name, live_restore=live_restore) as (made, engine):
        entries = await asyncio.gather(*(made.client.submit(kind, seconds=4.0) for kind in KINDS))
        await made.place_of(entries[0].id)
        blocked = made.places[0].agent.when("takes no work")
        tally.fault(f"dockerd killed, live-restore {'on' if live_restore else 'off'}")
        await asyncio.to_thread(engine.end, signal.SIGKILL)
        await made.client.submit_some(4)
        async with asyncio.timeout(30):
            await blocked
        await asyncio.to_thread(engine.start, live_restore=live_restore)
        await audit(made)


async def test_jobs_end_while_dockerd_is_dead(tmp_path: Path, tally: Tally) -> None:
    """What a job writes while nobody reads is lost: such a job has no answer, and never a short one."""
    async with world_on_own_engine(tmp_path, tally, "job ends unseen", live_restore=True) as (made, engine):
        jobs = await asyncio.gather(*(made.client.submit(kind, seconds=3.0) for kind in ("job", "job_once") * 2))
        for job in jobs:
            await made.executions.ran(job.id)
        tally.fault("dockerd killed, jobs end meanwhile")
        running = await asyncio.to_thread(engine.functions)
        assert running
        await asyncio.to_thread(engine.end, signal.SIGKILL)
        async with asyncio.timeout(30):
            while any(map(_lives, running)):
                await asyncio.sleep(0.05)
        await asyncio.to_thread(engine.start, live_restore=True)
        await audit(made)
