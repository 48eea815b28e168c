"""How soon the dashboard is there, and how it keeps up, with many nodes and tasks.

    PYTHONPATH=. python benches/dashboard.py [--nodes 5000] [--tasks 100000] [--connected 1000]

A store is filled, a dispatcher is started over it as a program of its own, so many of the nodes connect to it, and a
browser opens each view a few times with an empty cache. Needs Chromium: ``make test-tools`` brings it.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import resource
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from msgspec.structs import replace

from agent.protocol import SUBPROTOCOL, Capabilities, Credit, Load, NodeHeartbeat, NodeHello, Revision, Spans, encode
from dispatcher.auth import new_token, token_hash
from dispatcher.ids import Ids
from dispatcher.store.access import Account, Scope, Token
from dispatcher.store.records import Ended, Function, NewTask
from dispatcher.store.sqlite import SqliteStore
from tests.e2e.browser import Page, browser

ACCOUNT = "default"
FUNCTIONS = 40
BATCH = 1000
ROUNDS = 5
HEARTBEAT_SECONDS = 10.0

VIEWS = {
    "overview": ("#/", ".tile"),
    "nodes": ("#/nodes", "td .state"),
    "tasks": ("#/tasks", "td .state"),
    "failed tasks": ("#/tasks?state=failed", "td .state"),
    "functions": ("#/functions", "td.num"),
}
"""By name: where a view is, and what is there when it is complete."""


class Filled:
    """What the store was filled with."""

    def __init__(self) -> None:
        self.token = new_token()
        self.credentials: list[tuple[str, str]] = []


async def fill(store: SqliteStore, nodes: int, tasks: int) -> Filled:
    """Put an account with functions, nodes and tasks into a store; most tasks have ended, some of them badly."""
    filled, ids, rng = Filled(), Ids(time.time), random.Random(0)
    now = int(time.time() * 1000)
    await store.add_account(Account(ACCOUNT, ACCOUNT, administers=True))
    await store.add_token(Token(ids.new(), ACCOUNT, "bench", frozenset(Scope), now), token_hash(filled.token))
    revisions = [Revision(ids.new(), 1, f"image-{number}:latest") for number in range(FUNCTIONS)]
    for number, revision in enumerate(revisions):
        name = f"function-{number}"
        await store.add_function(Function(revision.function, ACCOUNT, name, "", "ANY", "DOCKER", now, revision))

    async def add_node(number: int) -> None:
        node, credential = str(uuid.UUID(int=rng.getrandbits(128), version=4)), new_token()
        await store.join_node(node, ACCOUNT, f"node-{number:05}", token_hash(credential), now)
        filled.credentials.append((node, credential))

    async def add_task() -> None:
        revision, task = rng.choice(revisions), ids.new()
        await store.create_task(NewTask(task, ACCOUNT, revision, now, "", [], b"{}", 2))
        chance = rng.random()
        if chance < 0.02:
            return
        (claim,) = await store.claim(revision.key, filled.credentials[0][0], [rng.randbytes(16)], now)
        spans = Spans(0, 200 * rng.random(), 1000 * rng.random(), 3)
        ended = Ended(now + 2000, 200, [], b"{}", 2, spans=spans, cold=chance < 0.2)
        if chance > 0.95:
            ended = replace(ended, status=504, error="TIMEOUT", ending="timeout")
        await store.finish(claim.lease, filled.credentials[0][0], ended)

    for step in range(0, nodes, BATCH):
        await asyncio.gather(*(add_node(number) for number in range(step, min(step + BATCH, nodes))))
    for step in range(0, tasks, BATCH):
        await asyncio.gather(*(add_task() for _ in range(min(BATCH, tasks - step))))
    return filled


@asynccontextmanager
async def dispatcher(directory: Path) -> AsyncIterator[str]:
    """Run `fernd dispatcher` over a store, and give its address."""
    command = ["-m", "agent.cli", "dispatcher", "--data-dir", str(directory), "--listen", "127.0.0.1:0"]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    address = ""
    while not address:
        line = (await process.stderr.readline()).decode()
        if found := re.search(r"http://[0-9.]+:\d+", line):
            address = found[0]
    drained = asyncio.create_task(_drain(process.stderr))
    try:
        yield address
    finally:
        process.terminate()
        await process.wait()
        drained.cancel()


async def _drain(stream: asyncio.StreamReader) -> None:
    async for _ in stream:
        pass


async def connect(http: aiohttp.ClientSession, url: str, node: str, credential: str) -> aiohttp.ClientWebSocketResponse:
    """Open the session of a node that has no room: tasks that wait are left waiting."""
    headers = {"Authorization": f"Bearer {credential}"}
    ws = await http.ws_connect(f"{url}/v1/node/{node}/session", protocols=(SUBPROTOCOL,), headers=headers)
    await ws.send_bytes(encode([NodeHello("0.1.0", Capabilities(8, 8192, 2.0), Credit())]))
    return ws


async def beat(sessions: list[aiohttp.ClientWebSocketResponse]) -> None:
    """Send the heartbeats of all nodes, evenly over time."""
    rng, sent = random.Random(1), 0
    while True:
        for ws in sessions:
            load = Load(100 * rng.random(), int(8192 * rng.random()), 0)
            await ws.send_bytes(encode([NodeHeartbeat(0, [], Capabilities(8, 8192, 2.0), Credit(), load)]))
            sent += 1
            await asyncio.sleep(HEARTBEAT_SECONDS / len(sessions))


async def paint(page: Page, url: str, address: str, complete: str) -> tuple[float, float]:
    """Open a view with an empty cache; milliseconds to the first paint with content, and until the view is complete."""
    await page.go("about:blank")
    await page.command("Network.enable")
    await page.command("Network.clearBrowserCache")
    await page.go(f"{url}/{address}")
    done = await page.until(f"""(() => {{
      const first = performance.getEntriesByName("first-contentful-paint")[0];
      return location.hash === "{address}" && document.querySelector("{complete}") !== null && first
        ? [first.startTime, performance.now()] : null;
    }})()""")
    return done[0], done[1]


async def run(nodes: int, tasks: int, connected: int) -> None:
    """Fill, serve, look, and print the figures."""
    print(f"{nodes} nodes, {connected} of them connected, {tasks} tasks; medians of {ROUNDS}, in ms")
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fernd-bench-")))
        store = SqliteStore(directory / "dispatcher.sqlite", synchronous="normal")
        await store.open()
        filled = await fill(store, nodes, tasks)
        await store.close()
        url = await stack.enter_async_context(dispatcher(directory))
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        sessions = [await connect(http, url, *one) for one in filled.credentials[:connected]]
        for ws in sessions:
            stack.push_async_callback(ws.close)
        beating = asyncio.create_task(beat(sessions)) if sessions else None
        headers = {"Authorization": f"Bearer {filled.token}"}
        print(f"\n{'request':<44}{'ms':>8}")
        for path in (
            "/v1/summary",
            "/v1/task/overview?limit=50",
            "/v1/task/overview?limit=50&state=failed",
            "/v1/node/list?limit=50",
            "/v1/node/list?limit=50&state=away",
            "/v1/function/overview?limit=25",
        ):
            print(f"{path:<44}{await _request(http, url + path, headers):>8.1f}")
        page = await stack.enter_async_context(browser())
        await page.look(width=1280, height=900)
        await page.go(f"{url}/")
        await page.sees("#token")
        await page.write(filled.token)
        await page.press("Enter", code=13, text="\r")
        await page.sees(".link-state", "Live")
        print(f"\n{'view':<20}{'first paint':>14}{'complete':>12}")
        for name, (address, complete) in VIEWS.items():
            seen = [await paint(page, url, address, complete) for _ in range(ROUNDS)]
            first, whole = (statistics.median(values) for values in zip(*seen, strict=True))
            print(f"{name:<20}{first:>14.0f}{whole:>12.0f}")
        if beating is not None:
            beating.cancel()
        print(f"\ncomplaints of the browser: {page.complaints or 'none'}")


async def _request(http: aiohttp.ClientSession, url: str, headers: dict[str, Any]) -> float:
    times = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        async with http.get(url, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            await answer.read()
        times.append(1000 * (time.perf_counter() - begun))
    # The first: the others may be answered with what was made for it.
    return times[0]


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--connected", type=int, default=1000)
    asked = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(run(asked.nodes, asked.tasks, asked.connected))


if __name__ == "__main__":
    main()
