"""Ten thousand nodes on one dispatcher: what an idle one costs, load, and all of them cut off at once.

The nodes are simulated (`benches.swarm`) in processes of their own, and speak the real session over loopback. The
dispatcher is `fernd dispatcher` on SQLite with its default settings. At the end every task that a caller was given an
id for must be in the store with its own answer, recorded under one lease.

    python -m benches.fleet [--nodes 10000] [--seconds 60] [--rate 200]

measures with other settings than `python -m benches fleet`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from agent.protocol import HEARTBEAT_SECONDS
from benches import crowd
from benches.cloud import Process, free_port
from benches.figures import Figure, percentile, table

PROCESSES = 2
RUN_SECONDS = 0.05
BACK_SECONDS = 120.0
KIB = 1024


async def measure(
    nodes: int, seconds: float, rate: float, *, settle_seconds: float = HEARTBEAT_SECONDS, idle_seconds: float = 20.0
) -> dict[str, Any]:
    """Run: connect, idle, load, a herd under load, and the audit."""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fernd-fleet-")))
        records = crowd.in_sqlite(directory / "dispatcher.sqlite")
        filled = await crowd.fill(records.store, nodes)
        address = f"127.0.0.1:{free_port()}"
        arguments = ["dispatcher", "--data-dir", str(directory), "--listen", address]
        dispatcher = Process(arguments, {"FERND_LOG_LEVEL": "warning"}, directory / "log")
        stack.callback(dispatcher.stop)
        await crowd.until_ready(address)
        swarms = crowd.Swarms(directory, stack, RUN_SECONDS)
        for number in range(PROCESSES):
            await swarms.start(filled.nodes[number::PROCESSES], [address])
        found: dict[str, Any] = {"nodes": nodes, "rate": rate, "seconds": seconds}

        bare = dispatcher.resident_mib()
        begun = time.monotonic()
        await swarms.do("open")
        await swarms.until_open(BACK_SECONDS)
        found["opened_seconds"] = time.monotonic() - begun
        await asyncio.sleep(settle_seconds)  # each has sent a heartbeat
        cpu, begun = dispatcher.cpu_seconds(), time.monotonic()
        await asyncio.sleep(idle_seconds)
        share = (dispatcher.cpu_seconds() - cpu) / (time.monotonic() - begun)
        found["idle_cpu_percent"] = 100 * share
        found["heartbeat_microseconds"] = 1e6 * share / (nodes / HEARTBEAT_SECONDS)
        found["kib_a_node"] = (dispatcher.resident_mib() - bare) * KIB / nodes
        found["bare_mib"] = bare

        callers = crowd.Callers([address], filled)
        calling = asyncio.create_task(callers.run(rate))
        cpu, begun = dispatcher.cpu_seconds(), time.monotonic()
        await asyncio.sleep(seconds)
        share = (dispatcher.cpu_seconds() - cpu) / (time.monotonic() - begun)
        found["loaded_cpu_percent"] = 100 * share
        found["created_a_second"] = len(callers.created) / (time.monotonic() - begun)
        found["create_ms"] = {share: 1000 * percentile(callers.seconds, share) for share in (0.5, 0.99)}
        found["loaded_mib"] = dispatcher.resident_mib()

        cpu = dispatcher.cpu_seconds()
        await swarms.do("drop")
        found["herd_back_seconds"] = await swarms.until_open(BACK_SECONDS)
        found["herd_cpu_seconds"] = dispatcher.cpu_seconds() - cpu
        await asyncio.sleep(min(seconds, settle_seconds))
        calling.cancel()
        await asyncio.wait([calling])
        await crowd.until_finished(records)
        found["longest_gap_seconds"] = callers.gap
        found["after_herd_mib"] = dispatcher.resident_mib()
        found["audit"] = await crowd.audit(records, callers, swarms)
        return found


def figures(found: dict[str, Any]) -> list[Figure]:
    """Hold what was measured against the targets."""
    nodes, audit = f"{found['nodes']:,} nodes", found["audit"]
    done = f"{audit['tasks']:,} tasks, {found['rate']:g} a second asked for, {found['seconds']:g} s and a herd"
    return [
        Figure("dispatcher memory an idle node", found["kib_a_node"], at_most=25, unit="KiB", note=nodes),
        Figure(
            "heartbeats, share of one core", found["idle_cpu_percent"], at_most=15, unit="%",
            note=f"{nodes}, {found['heartbeat_microseconds']:.0f} µs each",
        ),
        Figure("tasks created a second", found["created_a_second"], unit="/s", note=done),
        Figure("dispatcher under that load, share of one core", found["loaded_cpu_percent"], unit="%"),
        Figure("a herd: all back after", found["herd_back_seconds"], at_most=60, unit="s", note=f"{nodes}, under load"),
        Figure("longest time without an answered create", found["longest_gap_seconds"], unit="s", note="in the herd"),
        Figure("tasks lost", audit["lost"], at_most=0, note=done),
        Figure("tasks doubled", audit["doubled"], at_most=0, note=f"{audit['run again']} run again"),
    ]  # fmt: skip


async def run(details: dict[str, Any], nodes: int = 10_000, seconds: float = 20.0, rate: float = 200.0) -> list[Figure]:
    """Measure."""
    details.update(await measure(nodes, seconds, rate))
    return figures(details)


def main() -> None:
    """Read the arguments, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the load goes on before the herd")
    parser.add_argument("--rate", type=float, default=200.0, help="tasks a second")
    asked = parser.parse_args()
    details: dict[str, Any] = {}
    print(table(asyncio.run(run(details, asked.nodes, asked.seconds, asked.rate))))
    print(json.dumps(details, indent=2))


if __name__ == "__main__":
    main()
