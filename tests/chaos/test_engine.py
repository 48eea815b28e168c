"""The engine dies under load and comes back. It is one of our own: nobody else's containers die with it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.chaos.audit import audit
from tests.chaos.tally import Tally
from tests.chaos.workload import KINDS, build_image
from tests.chaos.world import world

pytestmark = [
    pytest.mark.engine,
    pytest.mark.chaos,
    pytest.mark.long,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("image"),
]


class OwnEngine:
    """A Docker Engine of this test alone, beside the machine's."""

    def __init__(self, directory: Path, *, live_restore: bool) -> None:
        self.socket = str(directory / "docker.sock")
        self._directory = directory
        self._live_restore = live_restore
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it and wait until it answers."""
        directory = self._directory
        for left in (directory / "pid", directory / "exec/containerd/containerd.pid"):
            left.unlink(missing_ok=True)  # what a killed one left may name any process by now
        options = {
            "host": f"unix://{self.socket}",
            "data-root": directory / "data",
            "exec-root": directory / "exec",
            "pidfile": directory / "pid",
            "bridge": "none",
            "iptables": "false",
            "live-restore": str(self._live_restore).lower(),
        }
        with (directory / "dockerd.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                # Without a network namespace of its own it would remove the bridge of the machine's engine.
                *("unshare", "--net", "dockerd"),
                *(f"--{name}={value}" for name, value in options.items()),
                stdout=log,
                stderr=log,
            )
        async with asyncio.timeout(60):
            while not await self._answers():
                await asyncio.sleep(0.1)

    async def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.returncode is None, (self._directory / "dockerd.log").read_text()[-2000:]
        with suppress(OSError):
            reader, writer = await asyncio.open_unix_connection(self.socket)
            writer.write(b"GET /_ping HTTP/1.0\r\n\r\n")
            answer = await reader.read()
            writer.close()
            return b" 200 " in answer.partition(b"\r\n")[0]
        return False

    def functions(self) -> list[psutil.Process]:
        """List the processes of functions, which the engine's end does not end."""
        shims = [process for process in psutil.process_iter(["cmdline"]) if _is_of(process, self._directory)]
        inside = [process for shim in shims for process in shim.children(recursive=True)]
        return [process for process in inside if "/function.py" in process.cmdline()]

    async def end(self, number: signal.Signals) -> None:
        """Send a signal that ends it, and wait until it is gone."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
            async with asyncio.timeout(60):
                await self._process.wait()


def _clear_up(directory: Path) -> None:
    """Remove what an engine left: where a test failed, containers with their shims too."""
    for shim in [process for process in psutil.process_iter(["cmdline"]) if _is_of(process, directory)]:
        with suppress(psutil.NoSuchProcess):
            for process in [*shim.children(recursive=True), shim]:
                process.kill()
    for mount in psutil.disk_partitions(all=True):
        if mount.mountpoint.startswith(f"{directory}/"):
            subprocess.run(["umount", "--lazy", mount.mountpoint], check=False)
    shutil.rmtree(directory, ignore_errors=True)


def _lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def _is_of(process: psutil.Process, directory: Path) -> bool:
    return any(str(directory) in argument for argument in process.info["cmdline"] or ())


@asynccontextmanager
async def own_engine(*, live_restore: bool) -> AsyncIterator[OwnEngine]:
    """Have an engine for a while, with the function's image."""
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        pytest.skip("a second dockerd needs root and dockerd itself")
    directory = Path(tempfile.mkdtemp(prefix="chaos-engine-"))
    engine = OwnEngine(directory, live_restore=live_restore)
    try:
        await engine.start()
        await asyncio.to_thread(build_image, f"unix://{engine.socket}")
        yield engine
    finally:
        await engine.end(signal.SIGTERM)
        await asyncio.to_thread(_clear_up, directory)


@pytest.mark.parametrize("live_restore", [False, True], ids=["containers die with it", "containers live on"])
async def test_dockerd_is_killed_under_load(tmp_path: Path, tally: Tally, live_restore: bool) -> None:
    """Whether containers outlive it or not: the node says why it takes no work, and takes work again by itself."""
    async with (
        own_engine(live_restore=live_restore) as engine,
        world(tmp_path, tally, f"dockerd {live_restore}", engine=engine.socket) as made,
    ):
        made.unheard = live_restore
        entries = await asyncio.gather(*(made.client.submit(kind, seconds=4.0) for kind in KINDS))
        await made.place_of(entries[0].id)
        blocked = made.places[0].agent.when("takes no work")
        tally.fault(f"dockerd killed, live-restore {'on' if live_restore else 'off'}")
        await engine.end(signal.SIGKILL)
        await made.client.submit_some(4)
        async with asyncio.timeout(30):
            await blocked
        await engine.start()
        await audit(made)


async def test_jobs_end_while_dockerd_is_dead(tmp_path: Path, tally: Tally) -> None:
    """What a job writes while nobody reads is lost: such a job has no answer, and never a short one."""
    async with (
        own_engine(live_restore=True) as engine,
        world(tmp_path, tally, "job ends unseen", engine=engine.socket) as made,
    ):
        jobs = await asyncio.gather(*(made.client.submit(kind, seconds=3.0) for kind in ("job", "job_once") * 2))
        for job in jobs:
            await made.executions.ran(job.id)
        tally.fault("dockerd killed, jobs end meanwhile")
        running = engine.functions()
        assert running
        await engine.end(signal.SIGKILL)
        async with asyncio.timeout(30):
            while any(map(_lives, running)):
                await asyncio.sleep(0.05)
        await engine.start()
        await audit(made)
