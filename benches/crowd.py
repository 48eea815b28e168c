"""Many nodes and their callers at dispatchers, and what must be in the database when they have gone.

The nodes are simulated (`benches.swarm`) in processes of their own. Callers create tasks at a steady rate, whatever
comes back: what is refused or breaks off is asked again, at the next dispatcher, with the same Idempotency-Key. The
audit holds what callers were given an id for against the database itself.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, closing
from itertools import count, cycle
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import asyncpg

from agent.protocol import Revision
from dispatcher.auth import new_token, token_hash
from dispatcher.ids import Ids
from dispatcher.store.access import Account, Scope, Token
from dispatcher.store.base import Store
from dispatcher.store.postgres import PostgresStore
from dispatcher.store.postgres.address import parse
from dispatcher.store.records import Function
from dispatcher.store.sqlite import SqliteStore

ACCOUNT = "default"
FUNCTIONS = 20
RETRIES = 5
ASK_AGAIN_SECONDS = 0.2
GIVE_UP_SECONDS = 30.0
CREATED_TOGETHER = 4
JOINED_TOGETHER = 1000
LOOK_SECONDS = 0.2

Rows = list[tuple[Any, ...]]


class Records(NamedTuple):
    """What the dispatchers write to, as it is filled before they start and read beside them."""

    store: Store
    query: Callable[[str], Awaitable[Rows]]


def in_sqlite(file: Path) -> Records:
    """Records in a file."""

    async def query(statement: str) -> Rows:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as store:
            return store.execute(statement).fetchall()

    return Records(SqliteStore(file, synchronous="normal"), query)


def in_postgres(url: str) -> Records:
    """Records in a database; of several hosts, in that which is the primary."""

    async def query(statement: str) -> Rows:
        while True:
            try:
                db = await asyncpg.connect(url, target_session_attrs="primary", timeout=5)
                try:
                    return [tuple(row) for row in await db.fetch(statement)]
                finally:
                    await db.close(timeout=5)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.TargetServerAttributeNotMatched):
                await asyncio.sleep(LOOK_SECONDS)  # it restarts, or fails over

    return Records(PostgresStore(parse(url)), query)


class Filled(NamedTuple):
    """What was put into the records.

    Attributes:
        token: Of the account.
        nodes: A node's id and credential each, with a space between them.
    """

    token: str
    functions: list[str]
    nodes: list[str]


async def fill(store: Store, nodes: int) -> Filled:
    """Put an account, functions and nodes into a store."""
    token, ids, now = new_token(), Ids(time.time), int(time.time() * 1000)
    await store.open()
    await store.add_account(Account(ACCOUNT, ACCOUNT, administers=True))
    await store.add_token(Token(ids.new(), ACCOUNT, "bench", frozenset(Scope), now), token_hash(token))
    functions = []
    for number in range(FUNCTIONS):
        revision = Revision(ids.new(), 1, f"registry.example.org/team/function-{number}:latest", retries=RETRIES)
        function = Function(revision.function, ACCOUNT, f"f-{number}", "", "ANY", "DOCKER", now, revision)
        await store.add_function(function)
        functions.append(function.id)
    credentials = [(str(uuid.uuid4()), new_token()) for _ in range(nodes)]
    for start in range(0, nodes, JOINED_TOGETHER):
        some = credentials[start : start + JOINED_TOGETHER]
        await asyncio.gather(*(store.join_node(node, ACCOUNT, "", token_hash(key), now) for node, key in some))
    await store.close()
    return Filled(token, functions, [f"{node} {key}" for node, key in credentials])


async def until_ready(address: str) -> None:
    """Wait until a dispatcher answers."""
    async with aiohttp.ClientSession() as http, asyncio.timeout(60):
        while True:
            try:
                async with http.get(f"http://{address}/readyz") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)


class Swarm:
    """A process of simulated nodes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._one_at_a_time = asyncio.Lock()

    @classmethod
    async def start(cls, credentials: Path, addresses: Sequence[str], source: str, run_seconds: float) -> Swarm:
        """Start it over a file of nodes, which know these dispatchers."""
        command = ["-m", "benches.swarm", str(credentials), ",".join(addresses), source, str(run_seconds)]
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


class Swarms:
    """All simulated nodes; they end with the stack that they were started on."""

    def __init__(self, directory: Path, stack: AsyncExitStack, run_seconds: float) -> None:
        self._directory = directory
        self._stack = stack
        self._run_seconds = run_seconds
        self._swarms: list[Swarm] = []
        self.nodes = 0

    async def start(self, nodes: Sequence[str], addresses: Sequence[str]) -> None:
        """Start a process of nodes, which do not connect yet."""
        number = len(self._swarms)
        credentials = self._directory / f"nodes-{number}"
        credentials.write_text("\n".join(nodes))
        # Each from an address of its own: there are fewer ports than nodes.
        swarm = await Swarm.start(credentials, addresses, f"127.0.0.{10 + number}", self._run_seconds)
        self._stack.push_async_callback(swarm.stop)
        self._swarms.append(swarm)
        self.nodes += len(nodes)

    async def do(self, command: str) -> list[dict[str, Any]]:
        """Let all nodes do something."""
        return await asyncio.gather(*(swarm.do(command) for swarm in self._swarms))

    async def opened(self) -> int:
        """Count the nodes that have their session."""
        return sum(int(state["open"]) for state in await self.do("state"))

    async def until_open(self, seconds: float) -> float:
        """Wait until all nodes have their session; the seconds that it took, or infinity after so many."""
        begun = time.monotonic()
        while (passed := time.monotonic() - begun) < seconds:
            if await self.opened() == self.nodes:
                return passed
            await asyncio.sleep(LOOK_SECONDS)
        return float("inf")


class Callers:
    """Whoever creates tasks.

    Attributes:
        created: What callers were given an id for, with the answer that must come.
        refused: What no dispatcher took within `GIVE_UP_SECONDS`: nothing was promised.
        seconds: What each create took that was answered, with all its tries.
        gap: The longest time in which no create was answered.
    """

    def __init__(self, addresses: Sequence[str], filled: Filled) -> None:
        self.created: dict[str, bytes] = {}
        self.refused = 0
        self.seconds: list[float] = []
        self.gap = 0.0
        self._addresses = cycle(addresses)
        self._filled = filled
        self._last = 0.0

    async def run(self, rate: float) -> None:
        """Create so many tasks a second, until cancelled; then see those through that were begun."""
        under_way = set[asyncio.Task[None]]()
        headers = {"Authorization": f"Bearer {self._filled.token}", "Content-Type": "application/json"}
        async with aiohttp.ClientSession(
            headers=headers, connector=aiohttp.TCPConnector(limit=200), timeout=aiohttp.ClientTimeout(GIVE_UP_SECONDS)
        ) as http:
            begun, numbers = time.monotonic(), count()
            self._last = begun
            try:
                for number in numbers:
                    while number > (time.monotonic() - begun) * rate:
                        await asyncio.sleep(CREATED_TOGETHER / rate)
                    task = asyncio.create_task(self._create(http, number))
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
            finally:
                await asyncio.gather(*under_way)

    async def flood(self, together: int, seconds: float) -> float:
        """Let so many callers ask and wait for the answer, again and again; give the tasks answered in a second.

        Raises:
            RuntimeError: An answer is not the right one.
        """
        headers = {
            "Authorization": f"Bearer {self._filled.token}",
            "Content-Type": "application/json",
            "Prefer": "wait=60",
        }
        answered, begun, numbers = 0, time.monotonic(), count()

        async def call(http: aiohttp.ClientSession) -> None:
            nonlocal answered
            while time.monotonic() < begun + seconds:
                number = next(numbers)
                body = b'"%d"' % number
                path = f"/v1/task/{self._filled.functions[number % FUNCTIONS]}"
                async with http.post(f"http://{next(self._addresses)}{path}", data=body) as answer:
                    if await answer.read() != body:
                        raise RuntimeError(f"a wrong answer: {answer.status}")
                answered += 1

        async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0)) as http:
            await asyncio.gather(*(call(http) for _ in range(together)))
        return answered / (time.monotonic() - begun)

    async def _create(self, http: aiohttp.ClientSession, number: int) -> None:
        body, begun = b'"%d"' % number, time.monotonic()
        path = f"/v1/task/{self._filled.functions[number % FUNCTIONS]}"
        again = {"Idempotency-Key": str(uuid.uuid4())}
        while (now := time.monotonic()) < begun + GIVE_UP_SECONDS:
            try:
                async with http.post(f"http://{next(self._addresses)}{path}", data=body, headers=again) as answer:
                    content = await answer.json()
                    if answer.status == 201:
                        now = time.monotonic()
                        self.created[content["id"]] = body
                        self.seconds.append(now - begun)
                        self.gap, self._last = max(self.gap, now - self._last), now
                        return
            except (aiohttp.ClientError, OSError, TimeoutError):
                pass
            await asyncio.sleep(ASK_AGAIN_SECONDS)
        self.refused += 1


async def until_finished(records: Records, seconds: float = 120.0) -> None:
    """Wait until nothing is under way any more, or for so long.

    What the nodes know is not enough: an acknowledgement may be lost with the connection, and is not repeated for a
    task that has ended.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ((left,),) = await records.query("SELECT count(*) FROM task WHERE state IN ('queued', 'offered', 'accepted')")
        if left == 0:
            return
        await asyncio.sleep(LOOK_SECONDS)


async def audit(records: Records, callers: Callers, swarms: Swarms) -> dict[str, int]:
    """Hold what is recorded, and what the nodes were told, against what these callers were promised."""
    recorded: dict[str, set[str]] = {}
    again = 0
    for part in await swarms.do("ledger"):
        for task, tokens in part["recorded"].items():
            recorded.setdefault(task, set()).update(tokens)
        again += sum(times - 1 for task, times in part["ran"].items() if task in callers.created)
    found = await records.query(
        "SELECT t.id, o.body FROM task t JOIN task_result o ON o.task = t.id"
        " WHERE t.state = 'finished' AND t.status = 200"
    )
    answers: dict[str, bytes] = dict(found)
    return {
        "tasks": len(callers.created),
        "lost": sum(answers.get(task) != body for task, body in callers.created.items()),
        "doubled": sum(len(recorded.get(task, ())) > 1 for task in callers.created),
        "run again": again,
        "refused": callers.refused,
    }
