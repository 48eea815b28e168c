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
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import AsyncExitStack, closing
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp

from agent.protocol import HEARTBEAT_SECONDS, Revision
from benches.cloud import Process, free_port
from benches.figures import Figure, percentile, table
from dispatcher.auth import new_token, token_hash
from dispatcher.ids import Ids
from dispatcher.store.access import Account, Scope, Token
from dispatcher.store.records import Function
from dispatcher.store.sqlite import SqliteStore

ACCOUNT = "default"
PROCESSES = 2
FUNCTIONS = 20
BACK_SECONDS = 120.0
CREATED_TOGETHER = 4
KIB = 1024


class Swarm:
    """A process of simulated nodes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._one_at_a_time = asyncio.Lock()

    @classmethod
    async def start(cls, credentials: Path, address: str, source: str) -> Swarm:
        """Start it over a file of nodes."""
        host, port = address.split(":")
        command = ["-m", "benches.swarm", str(credentials), host, port, source]
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable, *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, limit=2**30
            )
        )

    async def do(self, command: str) -> dict[str, Any]:
        """Let it do something, and give its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._one_at_a_time:
            self._process.stdin.write(f"{command}\n".encode())
            answer: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return answer

    async def stop(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


class Fleet:
    """A dispatcher, its nodes and their callers."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.database = directory / "dispatcher.sqlite"
        self.address = f"127.0.0.1:{free_port()}"
        self.token = new_token()
        self.functions: list[str] = []
        self.created: dict[str, bytes] = {}
        """What callers were given an id for, with the answer that must come."""
        self.refused = 0
        self.swarms: list[Swarm] = []
        self.dispatcher: Process

    async def fill(self, nodes: int) -> list[str]:
        """Put an account, functions and nodes into the store; give the nodes' ids and credentials."""
        store, ids, now = SqliteStore(self.database, synchronous="normal"), Ids(time.time), int(time.time() * 1000)
        await store.open()
        await store.add_account(Account(ACCOUNT, ACCOUNT, administers=True))
        await store.add_token(Token(ids.new(), ACCOUNT, "bench", frozenset(Scope), now), token_hash(self.token))
        for number in range(FUNCTIONS):
            revision = Revision(ids.new(), 1, f"registry.example.org/team/function-{number}:latest", retries=5)
            function = Function(revision.function, ACCOUNT, f"f-{number}", "", "ANY", "DOCKER", now, revision)
            await store.add_function(function)
            self.functions.append(function.id)
        credentials = [(str(uuid.uuid4()), new_token()) for _ in range(nodes)]
        await asyncio.gather(*(store.join_node(node, ACCOUNT, "", token_hash(key), now) for node, key in credentials))
        await store.close()
        return [f"{node} {key}" for node, key in credentials]

    async def begin(self, stack: AsyncExitStack, nodes: int) -> None:
        """Start the dispatcher, and the processes of the nodes, which do not connect yet."""
        lines = await self.fill(nodes)
        arguments = ["dispatcher", "--data-dir", str(self.directory), "--listen", self.address]
        self.dispatcher = Process(arguments, {"FERND_LOG_LEVEL": "warning"}, self.directory / "log")
        stack.callback(self.dispatcher.stop)
        await self.answers()
        for number in range(PROCESSES):
            credentials = self.directory / f"nodes-{number}"
            credentials.write_text("\n".join(lines[number::PROCESSES]))
            self.swarms.append(await Swarm.start(credentials, self.address, f"127.0.0.{10 + number}"))
            stack.push_async_callback(self.swarms[-1].stop)

    async def answers(self) -> None:
        """Wait until the dispatcher answers."""
        async with aiohttp.ClientSession() as http, asyncio.timeout(60):
            while True:
                try:
                    async with http.get(f"http://{self.address}/readyz") as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.05)

    async def do(self, command: str) -> list[dict[str, Any]]:
        """Let all nodes do something."""
        return await asyncio.gather(*(swarm.do(command) for swarm in self.swarms))

    async def total(self, what: str) -> int:
        """Count something over all nodes."""
        return sum(int(state[what]) for state in await self.do("state"))

    async def until_open(self, nodes: int) -> float:
        """Wait until so many nodes have their session; the seconds that it took, or infinity."""
        begun = time.monotonic()
        while (seconds := time.monotonic() - begun) < BACK_SECONDS:
            if await self.total("open") == nodes:
                return seconds
            await asyncio.sleep(0.2)
        return float("inf")

    async def load(self, rate: float, latencies: list[float]) -> None:
        """Create so many tasks a second, until cancelled. What is refused, or not answered, was promised nothing."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        numbers, under_way = count(1), set[asyncio.Task[None]]()
        async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=200)) as http:

            async def create(number: int) -> None:
                body, begun = b'"%d"' % number, time.perf_counter()
                url = f"http://{self.address}/v1/task/{self.functions[number % FUNCTIONS]}"
                try:
                    async with http.post(url, data=body) as answer:
                        content = await answer.json()
                        if answer.status == 201:
                            self.created[content["id"]] = body
                            latencies.append(time.perf_counter() - begun)
                            return
                except (aiohttp.ClientError, OSError):
                    pass
                self.refused += 1

            begun, made = time.monotonic(), 0
            try:
                while True:
                    while made < (time.monotonic() - begun) * rate:
                        task = asyncio.create_task(create(next(numbers)))
                        under_way.add(task)
                        task.add_done_callback(under_way.discard)
                        made += 1
                    await asyncio.sleep(CREATED_TOGETHER / rate)
            finally:
                await asyncio.gather(*under_way)

    async def finished(self, seconds: float = 120.0) -> None:
        """Wait until nothing is under way any more, or for so long.

        What the nodes know is not enough: an acknowledgement may be lost with the connection, and is not repeated for
        a task that has ended.
        """
        until = time.monotonic() + seconds
        with closing(self.open_store()) as store:
            while time.monotonic() < until:
                (left,) = store.execute(
                    "SELECT count(*) FROM task WHERE state IN ('queued', 'offered', 'accepted')"
                ).fetchone()
                if left == 0:
                    return
                await asyncio.sleep(0.2)

    def open_store(self) -> sqlite3.Connection:
        """Look into the store beside the dispatcher."""
        return sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)

    async def audit(self) -> dict[str, int]:
        """Hold what is in the store, and what the nodes were told, against what was promised."""
        recorded: dict[str, set[str]] = {}
        for part in await self.do("ledger"):
            for task, tokens in part["recorded"].items():
                recorded.setdefault(task, set()).update(tokens)
        again = await self.total("again")
        with closing(self.open_store()) as store:
            answers = dict(
                store.execute(
                    "SELECT t.id, o.body FROM task t JOIN task_result o ON o.task = t.id"
                    " WHERE t.state = 'finished' AND t.status = 200"
                )
            )
        return {
            "tasks": len(self.created),
            "lost": sum(answers.get(task) != body for task, body in self.created.items()),
            "doubled": sum(len(tokens) > 1 for tokens in recorded.values()),
            "run again": again,
            "refused": self.refused,
        }


async def measure(
    nodes: int, seconds: float, rate: float, *, settle_seconds: float = HEARTBEAT_SECONDS, idle_seconds: float = 20.0
) -> dict[str, Any]:
    """Run: connect, idle, load, a herd under load, and the audit."""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fernd-fleet-")))
        fleet = Fleet(directory)
        await fleet.begin(stack, nodes)
        found: dict[str, Any] = {"nodes": nodes, "rate": rate, "seconds": seconds}

        bare = fleet.dispatcher.resident_mib()
        begun = time.monotonic()
        await fleet.do("open")
        await fleet.until_open(nodes)
        found["opened_seconds"] = time.monotonic() - begun
        await asyncio.sleep(settle_seconds)  # each has sent a heartbeat
        cpu, begun = fleet.dispatcher.cpu_seconds(), time.monotonic()
        await asyncio.sleep(idle_seconds)
        share = (fleet.dispatcher.cpu_seconds() - cpu) / (time.monotonic() - begun)
        found["idle_cpu_percent"] = 100 * share
        found["heartbeat_microseconds"] = 1e6 * share / (nodes / HEARTBEAT_SECONDS)
        found["kib_a_node"] = (fleet.dispatcher.resident_mib() - bare) * KIB / nodes
        found["bare_mib"] = bare

        latencies: list[float] = []
        loading = asyncio.create_task(fleet.load(rate, latencies))
        cpu, begun = fleet.dispatcher.cpu_seconds(), time.monotonic()
        await asyncio.sleep(seconds)
        share = (fleet.dispatcher.cpu_seconds() - cpu) / (time.monotonic() - begun)
        found["loaded_cpu_percent"] = 100 * share
        found["created_a_second"] = len(fleet.created) / (time.monotonic() - begun)
        found["create_ms"] = {share: 1000 * percentile(latencies, share) for share in (0.5, 0.99)}

        cpu = fleet.dispatcher.cpu_seconds()
        await fleet.do("drop")
        found["herd_back_seconds"] = await fleet.until_open(nodes)
        found["herd_cpu_seconds"] = fleet.dispatcher.cpu_seconds() - cpu
        await asyncio.sleep(min(seconds, settle_seconds))
        loading.cancel()
        await asyncio.wait([loading])
        await fleet.finished()
        found["loaded_mib"] = fleet.dispatcher.resident_mib()
        found["audit"] = await fleet.audit()
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
