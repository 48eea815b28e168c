"""Many nodes on two dispatchers over PostgreSQL, one fault after the other under load, and an audit after each.

The primary has a synchronous standby, and both sync their commits to disk. Callers create tasks at a steady rate and
do not give up; nodes know both dispatchers, a tenth of them over links that can be made slow, lossy, silent or broken.
After each fault all nodes must be back, and every task that a caller was given an id for must have its own answer,
recorded under one lease.

    python -m benches.fleet_faults [--nodes 10000] [--rate 200] [--seconds 12]

measures with other settings than `python -m benches fleet_faults`.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from benches import crowd
from benches.cloud import Process, free_port
from benches.figures import Figure, percentile, table
from tests import postgres
from tests.chaos.relay import Relay

PROCESSES = 2
RUN_SECONDS = 0.5
"""Long enough that a fault finds tasks that run."""

BACK_SECONDS = 180.0
TOXIC_SHARE = 10
"""One node in so many is behind a link that can be harmed."""

DELAY_SECONDS = 0.3
LOSS = 0.1
SILENT_SECONDS = 40.0
BREAKS = 5


class Dispatcher:
    """One of the two."""

    def __init__(self, name: str, directory: Path, database: str) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._log = directory / f"log-{name}"
        self._arguments = ["dispatcher", "--data-dir", str(directory / name), "--listen", self.address]
        self._environ = {"FERND_LOG_LEVEL": "warning", "FERND_STORE_DATABASE": database}
        self._process: Process | None = None

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = Process(self._arguments, self._environ, self._log)
        await crowd.until_ready(self.address)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it by a signal."""
        assert self._process is not None
        await asyncio.to_thread(self._process.end, number)


class Fleet:
    """Everything that runs, and the faults that it is put to."""

    def __init__(self, directory: Path, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._directory = directory
        self._rng = random.Random(1)
        self.primary = stack.enter_context(postgres.running("max_connections=100"))
        # By default a standby tries again only after 5 s, and no commit is confirmed without it.
        follow = ("max_connections=100", "wal_retrieve_retry_interval=500ms")
        self.standby = postgres.Cluster(stack.enter_context(postgres.directory()), *follow)
        self.standby.copy_of(self.primary)
        self.standby.start()
        stack.callback(self.standby.stop, "immediate")
        self.primary.sql("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
        self.primary.sql("SELECT pg_reload_conf()")
        hosts = f"127.0.0.1:{self.primary.port},127.0.0.1:{self.standby.port}"
        url = self.primary.database("tasks").replace(f"127.0.0.1:{self.primary.port}", hosts)
        self.records = crowd.in_postgres(url)
        self.dispatchers = [Dispatcher(name, directory, url) for name in ("a", "b")]
        self.links: list[Relay] = []
        self.swarms: crowd.Swarms
        self.filled: crowd.Filled

    @property
    def addresses(self) -> list[str]:
        """Of the dispatchers."""
        return [dispatcher.address for dispatcher in self.dispatchers]

    async def begin(self, nodes: int) -> None:
        """Fill the database, start the dispatchers, and let all nodes connect."""
        self.filled = await crowd.fill(self.records.store, nodes)
        for dispatcher in self.dispatchers:
            await dispatcher.start()
            self._stack.push_async_callback(dispatcher.end)
            self.links.append(Relay(int(dispatcher.address.rpartition(":")[2]), self._rng))
            await self.links[-1].start()
            self._stack.push_async_callback(self.links[-1].close)
        self.swarms = crowd.Swarms(self._directory, self._stack, RUN_SECONDS)
        toxic = nodes // TOXIC_SHARE
        await self.swarms.start(self.filled.nodes[:toxic], [f"127.0.0.1:{link.port}" for link in self.links])
        for number in range(PROCESSES):
            await self.swarms.start(self.filled.nodes[toxic + number :: PROCESSES], self.addresses)
        await self.swarms.do("open")
        if await self.swarms.until_open(BACK_SECONDS) == float("inf"):
            raise RuntimeError("not all nodes could connect")

    # the faults

    async def nothing(self) -> None:
        """Load alone."""

    async def restart_each(self) -> None:
        """Both are restarted in turn, as for an upgrade."""
        await self._restart(signal.SIGTERM)

    async def kill_each(self) -> None:
        """Both are killed and started again, in turn."""
        await self._restart(signal.SIGKILL)

    async def cut_off_all(self) -> None:
        """All nodes lose their connection at once."""
        await self.swarms.do("drop")

    async def slow_links(self) -> None:
        """A tenth of the links is slow and loses segments, for a while."""
        for link in self.links:
            link.delay, link.loss = DELAY_SECONDS, LOSS
        await asyncio.sleep(SILENT_SECONDS / 2)
        for link in self.links:
            link.delay, link.loss = 0.0, 0.0

    async def silent_links(self) -> None:
        """Nothing crosses a tenth of the links any more, longer than sessions bear it."""
        for link in self.links:
            link.silence()
        await asyncio.sleep(SILENT_SECONDS)
        for link in self.links:
            link.heal()

    async def broken_links(self) -> None:
        """A tenth of the links breaks again and again."""
        for _ in range(BREAKS):
            await asyncio.gather(*(link.reset() for link in self.links))
            await asyncio.sleep(1)

    async def restart_database(self) -> None:
        """PostgreSQL is restarted, and lets nobody finish."""
        await asyncio.to_thread(self.primary.stop, "fast")
        await asyncio.to_thread(self.primary.start)

    async def fail_over(self) -> None:
        """The primary dies, and its standby is promoted."""
        await asyncio.to_thread(self.primary.stop, "immediate")
        await asyncio.to_thread(self.standby.promote)

    async def _restart(self, number: signal.Signals) -> None:
        for dispatcher in self.dispatchers:
            await dispatcher.end(number)
            await dispatcher.start()
            await self.swarms.until_open(BACK_SECONDS)

    async def put_to(self, fault: Callable[[], Awaitable[None]], rate: float, seconds: float) -> dict[str, Any]:
        """Let a fault happen under load, wait until all nodes are back, and audit."""
        callers = crowd.Callers(self.addresses, self.filled)
        calling = asyncio.create_task(callers.run(rate))
        await asyncio.sleep(seconds / 3)
        begun = time.monotonic()
        await fault()
        took = time.monotonic() - begun
        back = await self.swarms.until_open(BACK_SECONDS)
        await asyncio.sleep(seconds * 2 / 3)
        calling.cancel()
        await asyncio.wait([calling])
        await crowd.until_finished(self.records)
        return {
            "took_seconds": took,
            "back_seconds": back,
            "longest_gap_seconds": callers.gap,
            "create_p99_seconds": percentile(callers.seconds, 0.99),
            **await crowd.audit(self.records, callers, self.swarms),
        }


FAULTS: dict[str, Callable[[Fleet], Awaitable[None]]] = {
    "none": Fleet.nothing,
    "each dispatcher restarted in turn": Fleet.restart_each,
    "each dispatcher killed -9 in turn": Fleet.kill_each,
    "all nodes cut off at once": Fleet.cut_off_all,
    "a tenth of the links slow and lossy": Fleet.slow_links,
    "a tenth of the links silent for 40 s": Fleet.silent_links,
    "a tenth of the links broken five times": Fleet.broken_links,
    "PostgreSQL restarted": Fleet.restart_database,
    "primary killed, standby promoted": Fleet.fail_over,
}
"""In this order: after the last the database has no standby any more."""


async def measure(
    nodes: int, rate: float, seconds: float, faults: Sequence[str] = tuple(FAULTS)
) -> dict[str, dict[str, Any]]:
    """Put a fleet to faults, and give what was found after each."""
    found = {}
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fernd-faults-")))
        fleet = Fleet(directory, stack)
        await fleet.begin(nodes)
        for name in faults:
            print(f"fault: {name} …", file=sys.stderr, flush=True)
            fault = FAULTS[name]
            found[name] = await fleet.put_to(lambda fault=fault: fault(fleet), rate, seconds)  # type: ignore[misc]
    return found


async def run(details: dict[str, Any], nodes: int = 10_000, rate: float = 200.0, seconds: float = 12.0) -> list[Figure]:
    """Measure."""
    details.update({"nodes": nodes, "rate": rate}, faults=await measure(nodes, rate, seconds))
    figures = []
    for name, row in details["faults"].items():
        note = (
            f"{row['tasks']:,} tasks, {row['run again']} run again, {row['refused']} refused; "
            f"all back {row['back_seconds']:.1f} s after it; no create answered for {row['longest_gap_seconds']:.1f} s"
        )
        figures.append(Figure(f"{name}: lost or doubled", row["lost"] + row["doubled"], at_most=0, note=note))
    return figures


def main() -> None:
    """Read the arguments, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=200.0, help="tasks a second")
    parser.add_argument("--seconds", type=float, default=12.0, help="how long the load goes on around a fault")
    asked = parser.parse_args()
    print(table(asyncio.run(run({}, asked.nodes, asked.rate, asked.seconds))))


if __name__ == "__main__":
    main()
