"""The path of a warm task through fernd, against a direct call of the same server in a container.

One aiohttp client calls in turn the server itself, at its address on the engine's bridge, which is the fastest way that
a user has; and the function through fernd, with `Prefer: wait`. Both servers have the same limits. Client, servers,
dispatcher, agent and engine share the machine, in both cases. Every answer is compared with what was sent. The CPU of
dispatcher and agent is what the kernel counted for them (/proc/PID/stat) from the first call to the last.

The server called directly takes as many requests at a time as come. A function with default settings takes one in each
container, and a CPU for each. So the function is measured with default settings, and once more as one that says
`concurrency: 64`, of which one container does what the server called directly does.

    python -m benches.path [--seconds 2] [--callers 1 4 16 64] [--concurrency 1] [--cpus 0]

measures with other settings than `python -m benches path`.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import aiohttp
import docker

from benches.cloud import Cloud, build_echo, cloud, direct_container
from benches.figures import Figure, percentile, table

CALLERS = (1, 4, 16, 64)
SHARED = 64
"""`concurrency` of the function that is called as the server is that is called directly."""

ROUNDS = 3
BODY = b'{"name": "John Doe", "age": 30, "admin": true}'
WAIT = {"Prefer": "wait=30", "Content-Type": "application/json"}
PLAIN = {"Content-Type": "application/json"}


class Run:
    """What some callers got in some seconds."""

    def __init__(self, latencies: list[float], seconds: float) -> None:
        self.latencies = latencies
        self.rate = len(latencies) / seconds

    def within(self, share: float) -> float:
        """Give the milliseconds within which so large a share of the answers came."""
        return percentile(self.latencies, share) * 1000


async def load(session: aiohttp.ClientSession, url: str, headers: dict[str, str], callers: int, seconds: float) -> Run:
    """Call a URL from so many callers, each again as soon as it has its answer."""
    latencies: list[float] = []
    begun = time.perf_counter()

    async def call() -> None:
        while (sent := time.perf_counter()) - begun < seconds:
            async with session.post(url, data=BODY, headers=headers) as answer:
                got = await answer.read()
                if answer.status != 200 or got != BODY:
                    raise RuntimeError(f"{url} answered {answer.status}: {got[:500]!r}")
            latencies.append(time.perf_counter() - sent)

    await asyncio.gather(*(call() for _ in range(callers)))
    return Run(latencies, time.perf_counter() - begun)


async def compare(fernd: Cloud, direct: str, function: str, callers: int, seconds: float) -> dict[str, Any]:
    """Measure both in turn, so that what else the machine does touches both; give the medians of the rounds."""
    throughs, directs, ratios, cpus = [], [], [], []
    own, tasks = {"dispatcher": 0.0, "agent": 0.0}, 0
    connector = aiohttp.TCPConnector(limit=callers)
    async with aiohttp.ClientSession(connector=connector, headers=fernd.session.headers) as session:
        for _ in range(ROUNDS):
            plain = await load(session, f"{direct}/", PLAIN, callers, seconds / ROUNDS)
            before = {"dispatcher": fernd.dispatcher.cpu_seconds(), "agent": fernd.agent.cpu_seconds()}
            client = time.process_time()
            through = await load(session, f"{fernd.url}/v1/task/{function}", WAIT, callers, seconds / ROUNDS)
            cpus.append((time.process_time() - client) / len(through.latencies) * 1000)
            own["dispatcher"] += fernd.dispatcher.cpu_seconds() - before["dispatcher"]
            own["agent"] += fernd.agent.cpu_seconds() - before["agent"]
            tasks += len(through.latencies)
            directs.append(plain)
            throughs.append(through)
            ratios.append(through.rate / plain.rate)
    return {
        "callers": callers,
        "direct_per_second": round(median(run.rate for run in directs)),
        "through_per_second": round(median(run.rate for run in throughs)),
        "ratio": round(median(ratios), 3),
        "direct_p50_ms": round(median(run.within(0.5) for run in directs), 3),
        "p50_ms": round(median(run.within(0.5) for run in throughs), 3),
        "p99_ms": round(median(run.within(0.99) for run in throughs), 3),
        "dispatcher_cpu_ms": round(own["dispatcher"] / tasks * 1000, 3),
        "agent_cpu_ms": round(own["agent"] / tasks * 1000, 3),
        "client_cpu_ms": round(median(cpus), 3),
    }


async def measure(seconds: float, callers: Sequence[int], *, cpus: float = 0, **function: Any) -> list[dict[str, Any]]:
    """Measure with each number of callers.

    Args:
        cpus: That the function asks for; 0 is the default.
        function: What else it says of itself.
    """
    client = docker.from_env()
    image = build_echo(client)
    with direct_container(client, image) as direct:
        async with cloud() as fernd:
            function_id = await fernd.create_function("echo", image, **function)
            await fernd.require(function_id, cpuCount=cpus)
            async with aiohttp.ClientSession(headers=fernd.session.headers) as session:
                await load(session, f"{fernd.url}/v1/task/{function_id}", WAIT, max(callers), 1.0)
                await load(session, f"{direct}/", PLAIN, max(callers), 0.3)
            return [await compare(fernd, direct, function_id, count, seconds) for count in callers]


def figures(rows: list[dict[str, Any]], settings: str = "") -> list[Figure]:
    """Hold what was measured against the targets.

    Args:
        settings: Words on those of the function, where they are not the default.
    """
    found = [
        Figure(
            f"throughput through fernd ÷ direct, {row['callers']} callers{settings}",
            row["ratio"],
            at_least=0.30,
            note=f"{row['through_per_second']:,} ÷ {row['direct_per_second']:,} a second",
        )
        for row in rows
    ]
    by_callers = {row["callers"]: row for row in rows}
    if 4 in by_callers and 64 in by_callers:
        kept = by_callers[64]["through_per_second"] / by_callers[4]["through_per_second"]
        found.append(Figure(f"throughput through fernd, 64 callers ÷ 4{settings}", kept, at_least=1.0))
    if 16 in by_callers:
        row = by_callers[16]
        spread = f"{row['p99_ms']} ms ÷ {row['p50_ms']} ms"
        found.append(Figure(f"p99 ÷ p50, 16 callers{settings}", row["p99_ms"] / row["p50_ms"], at_most=4, note=spread))
        own = row["dispatcher_cpu_ms"] + row["agent_cpu_ms"]
        parts = f"dispatcher {row['dispatcher_cpu_ms']}, agent {row['agent_cpu_ms']}; 16 callers"
        found.append(Figure(f"own CPU per warm task{settings}", own, at_most=0.8, unit="ms", note=parts))
    return found


async def run(details: dict[str, Any], seconds: float = 2.0) -> list[Figure]:
    """Measure."""
    details["callers"] = await measure(seconds, CALLERS)
    details["callers_shared"] = await measure(seconds, CALLERS, concurrency=SHARED)
    return figures(details["callers"]) + figures(details["callers_shared"], f", concurrency {SHARED}")


def main() -> None:
    """Read the arguments, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each rate is measured")
    parser.add_argument("--callers", type=int, nargs="+", default=CALLERS)
    parser.add_argument("--concurrency", type=int, default=1, help="requests that a container takes at a time")
    parser.add_argument("--cpus", type=float, default=0, help="CPUs that the function asks for")
    args = parser.parse_args()
    rows = asyncio.run(measure(args.seconds, args.callers, cpus=args.cpus, concurrency=args.concurrency))
    print("  ".join(rows[0]))
    for row in rows:
        print("  ".join(f"{value:>{len(name)}}" for name, value in row.items()))
    print(table(figures(rows)))


if __name__ == "__main__":
    main()
