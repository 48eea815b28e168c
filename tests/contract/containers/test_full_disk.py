"""An engine whose disk is really full: what becomes of pulls and tasks, and that all goes on when there is room."""

from __future__ import annotations

import asyncio
import gc
import os
import platform
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from agent.containers.host import ContainerHost
from agent.invocation import GaveBack, Ran
from tests.contract.containers.calls import Caller, eventually, revision, running_host
from tests.contract.containers.registry import Registry
from tests.second_engine import SecondEngine, needs_second_engine

pytestmark = [pytest.mark.engine, needs_second_engine]

MIB = 1024 * 1024
DISK = 48
"""MiB for everything that the engine keeps."""


@pytest.fixture
def engine() -> Iterator[SecondEngine]:
    engine = SecondEngine(disk=DISK)
    try:
        engine.start(live_restore=False)
        yield engine
    finally:
        engine.remove()
        gc.collect()


@pytest.fixture
async def registry(engine: SecondEngine) -> AsyncIterator[Registry]:
    """A registry that both the agent and the engine find at the same address."""
    async with Registry(platform.machine()) as registry:
        await registry.serve_on(await asyncio.to_thread(engine.listen, registry.port))
        yield registry


@pytest.fixture
async def host(engine: SecondEngine, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ContainerHost]:
    monkeypatch.setenv("DOCKER_HOST", engine.address)
    async with running_host(reach="namespace") as host:
        yield host


def leave(engine: SecondEngine, mib: float) -> None:
    """Fill the engine's disk until so much is left."""
    ballast = engine.data / "ballast"
    ballast.unlink(missing_ok=True)
    disk = os.statvfs(engine.data)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, int(disk.f_bavail * disk.f_frsize - mib * MIB))


async def test_a_full_disk(engine: SecondEngine, registry: Registry, host: ContainerHost, tmp_path: Path) -> None:
    """A pull that does not fit is not begun; one that the disk gets too full for fails with the engine's words.

    A task whose container cannot be made is given back, as one that has not begun. When there is room again, each of
    them is done. No path of this machine is told to whoever asked.
    """
    call, tested = Caller(host, tmp_path), revision(image=registry.image, mode="job")

    leave(engine, 4)
    declined = await call.prepare(tested).run()
    assert isinstance(declined, GaveBack)
    assert declined.reason.startswith("the disk has no room for the image: it takes 6 MiB, ")
    assert (declined.started, registry.pulls) == (False, 0)

    leave(engine, 16)
    registry.open.clear()
    pulling = asyncio.create_task(call.prepare(tested).run())

    async def layer_is_asked_for() -> bool:
        return registry.pulls > 0

    await eventually(layer_is_asked_for)
    leave(engine, 0.5)
    registry.open.set()
    failed = await pulling
    assert isinstance(failed, Ran)
    assert failed.outcome.ending == "image_unavailable"
    assert failed.outcome.detail == "the image cannot be pulled: write …: no space left on device"

    leave(engine, 16)
    assert (await call(tested)).outcome.status == 200

    await host.pool.settled()
    leave(engine, 0)
    assert await call.prepare(tested).run() == GaveBack("the disk has no room for a container", started=False)

    leave(engine, 16)
    assert (await call(tested)).outcome.status == 200
    assert (await host.canary()).problem == ""
