"""What the host does to an agent: a disk that fills up, a clock that jumps."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.audit import audit
from tests.chaos.programs import Line
from tests.chaos.tally import Tally
from tests.chaos.workload import KINDS
from tests.chaos.world import world

pytestmark = [pytest.mark.engine, pytest.mark.chaos, pytest.mark.timeout(300), pytest.mark.usefixtures("image")]

DISK = "160m"
"""More than the agent wants to see free before it takes work."""
DAY = 86_400


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few MiB."""
    if os.geteuid() != 0:
        pytest.skip("a file system can be mounted by root alone")
    directory = tmp_path / "disk"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", directory], check=True)
    yield directory
    subprocess.run(["umount", "--lazy", directory], check=True)


def _fill(file: Path) -> None:
    with file.open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            pass


async def test_disk_fills_up(tmp_path: Path, tally: Tally, small_disk: Path) -> None:
    """With no byte left the node takes no work and says so; with room again it goes on, and nothing was dropped."""

    def expected(line: Line) -> bool:
        return "disk" in str(line)

    async with world(tmp_path, tally, "disk full", agents=0) as made:
        made.expected = expected
        place = await made.add_agent(data_dir=small_disk / "agent")
        running = await asyncio.gather(*(made.client.submit(kind, 2.0, 400_000) for kind in KINDS))
        await made.executions.ran(running[0].id)
        tally.fault("disk full")
        blocked = place.agent.when("takes no work")
        filler = small_disk / "filler"
        await asyncio.to_thread(_fill, filler)
        await made.client.submit_some(6)
        async with asyncio.timeout(60):
            await blocked
        assert place.agent.runs
        filler.unlink()
        await audit(made)


def _libfaketime() -> list[Path]:
    return list(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


async def test_clock_jumps(tmp_path: Path, tally: Tally) -> None:
    """Days forward, then back to before the start: no lease ends, no session ends, no timeout strikes."""
    libraries = await asyncio.to_thread(_libfaketime)
    if not libraries:
        pytest.skip("libfaketime is not installed: apt-get install libfaketime")
    clock = tmp_path / "offset"
    clock.write_text("+0")
    environ = {
        "LD_PRELOAD": str(libraries[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    async with world(tmp_path, tally, "clock", environ=environ) as made:
        for jump in (3 * DAY, -2 * DAY, 0):
            entries = await asyncio.gather(*(made.client.submit(kind, seconds=1.5) for kind in KINDS))
            for entry in entries:
                await made.executions.ran(entry.id)
            tally.fault("wall clock jumps by days")
            clock.write_text(f"{jump:+d}")
            await made.client.all_results()
        for entry in made.client.ledger:
            task = await made.client.task(entry)
            assert (task["status"], task["attempt"]) == (200, 1), task
        said = [line["event"] for program in (made.dispatcher, made.places[0].agent) for line in program.lines]
        assert not {"attempt lost", "no session", "session ended"} & set(said)
        await audit(made)
