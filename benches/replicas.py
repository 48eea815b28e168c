"""What two dispatchers over one PostgreSQL carry, against one, and what a task costs each of the programs.

PostgreSQL, the nodes and the callers need cores as well. Where they have none of their own, a second dispatcher can
carry nothing more; so each dispatcher is held to the same small share of a core by a cgroup, and is what ends first.
The same is measured without that, to say what this machine carries. Callers ask and wait for the answer.

    python -m benches.replicas [--share 0.3] [--seconds 15]

measures with other settings than `python -m benches replicas`. It needs the right to make cgroups.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from benches import crowd
from benches.cloud import Process, free_port
from benches.figures import Figure, table
from tests import postgres

NODES = 100
RUN_SECONDS = 0.02
TOGETHER = 48
WARM_SECONDS = 3.0
OPEN_SECONDS = 60.0

_VERSION_1 = Path("/sys/fs/cgroup/cpu")
_PERIOD_MICROSECONDS = 10_000


@contextmanager
def held_to(share: float, name: str) -> Iterator[Path]:
    """Give the file that processes are named in to be held to a share of a core."""
    quota = int(share * _PERIOD_MICROSECONDS)
    group = (_VERSION_1 if _VERSION_1.exists() else Path("/sys/fs/cgroup")) / name
    group.mkdir()
    try:
        if _VERSION_1.exists():
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD_MICROSECONDS))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (group / "cpu.max").write_text(f"{quota} {_PERIOD_MICROSECONDS}")
        yield group / "cgroup.procs"
    finally:
        group.rmdir()


def cpu_of_tree(pid: int) -> float:
    """Give the CPU seconds of a process and of what it has started."""
    one = psutil.Process(pid)
    return sum(sum(each.cpu_times()[:2]) for each in (one, *one.children(recursive=True)))


async def measure(dispatchers: int, share: float | None, seconds: float) -> dict[str, float]:
    """Let so many dispatchers carry what they can; tasks answered a second, and CPU in milliseconds a task."""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fernd-replicas-")))
        cluster = stack.enter_context(postgres.running("max_connections=100"))
        url = cluster.database("tasks")
        filled = await crowd.fill(crowd.in_postgres(url).store, NODES)
        running, addresses = [], []
        for number in range(dispatchers):
            held = None
            if share is not None:
                held = stack.enter_context(held_to(share, f"fernd-bench-{os.getpid()}-{number}"))
            addresses.append(f"127.0.0.1:{free_port()}")
            arguments = ["dispatcher", "--data-dir", str(directory / str(number)), "--listen", addresses[-1]]
            environ = {"FERND_LOG_LEVEL": "warning", "FERND_STORE_DATABASE": url}
            running.append(Process(arguments, environ, directory / f"log-{number}"))
            stack.callback(running[-1].stop)
            await crowd.until_ready(addresses[-1])
            if held is not None:
                held.write_text(str(running[-1].pid))
        swarms = crowd.Swarms(directory, stack, RUN_SECONDS)
        await swarms.start(filled.nodes, addresses)
        await swarms.do("open")
        if await swarms.until_open(OPEN_SECONDS) == float("inf"):
            raise RuntimeError("not all nodes could connect")
        callers = crowd.Callers(addresses, filled)
        await callers.flood(TOGETHER, WARM_SECONDS)

        postmaster = int((cluster.data / "postmaster.pid").read_text().split()[0])

        async def spent() -> dict[str, float]:
            (swarm,) = await swarms.do("state")
            return {
                "dispatchers": sum(one.cpu_seconds() for one in running),
                "PostgreSQL": cpu_of_tree(postmaster),
                "nodes and callers": swarm["cpu"] + time.process_time(),
            }

        before = await spent()
        rate = await callers.flood(TOGETHER, seconds)
        after = await spent()
        return {"rate": rate} | {who: 1000 * (after[who] - before[who]) / (rate * seconds) for who in before}


async def run(details: dict[str, Any], share: float = 0.3, seconds: float = 15.0) -> list[Figure]:
    """Measure."""
    found = {}
    for limit in (share, None):
        for dispatchers in (1, 2):
            held = "free" if limit is None else f"held to {limit:g} of a core"
            found[held, dispatchers] = await measure(dispatchers, limit, seconds)
    details.update({f"{dispatchers} {held}": one for (held, dispatchers), one in found.items()})
    figures = []
    for held in dict.fromkeys(key[0] for key in found):
        one, two = found[held, 1], found[held, 2]
        figures.append(
            Figure(
                f"two dispatchers ÷ one, each {held}", two["rate"] / one["rate"],
                at_least=None if held == "free" else 1.5, note=f"{two['rate']:.0f} ÷ {one['rate']:.0f} tasks/s",
            )
        )  # fmt: skip
        figures += [
            Figure(f"CPU a task, {who}, with one, {held}", one[who], unit="ms", note=f"with two {two[who]:.2f} ms")
            for who in ("dispatchers", "PostgreSQL", "nodes and callers")
        ]
    return figures


def main() -> None:
    """Read the arguments, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=0.3, help="of a core, that a dispatcher is held to")
    parser.add_argument("--seconds", type=float, default=15.0, help="how long each is measured")
    asked = parser.parse_args()
    print(table(asyncio.run(run({}, asked.share, asked.seconds))))


if __name__ == "__main__":
    main()
