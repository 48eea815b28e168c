"""How fast the SQLite store is, against bare inserts into SQLite in the same run.

    python benches/store.py [--seconds 2] [--synchronous full|normal] [--queued 1000000]

The last lines are the figures to compare between machines: how much the shared commits gain, and how
much a claim costs more when a million tasks wait.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path

from agent.protocol import Revision
from dispatcher.store.records import Ended, NewTask
from dispatcher.store.sqlite import SqliteStore

REVISION = Revision(f"{1:024x}", 1, "image")
HEADERS = [("content-type", "application/json"), ("user-agent", "bench"), ("traceparent", "00-" + "0" * 52)]
BODY = b'{"name": "John Doe", "age": 30, "admin": true}'
ANSWER = Ended(1, 200, HEADERS, BODY, len(BODY))

_numbers = count(1)


def new_task() -> NewTask:
    """Make a task such as a caller makes: a short query, a few headers, a small body."""
    number = next(_numbers)
    return NewTask(f"{number:024x}", "account", REVISION, number, "a=1", HEADERS, BODY, len(BODY))


async def rate(step: Callable[[], Awaitable[int]], seconds: float, callers: int = 1) -> float:
    """Give how many things a second ``callers`` do, each calling ``step`` again and again."""
    done = 0
    start = time.perf_counter()

    async def call() -> None:
        nonlocal done
        while time.perf_counter() - start < seconds:
            # Not in one statement, which would read the sum before it waits.
            steps = await step()
            done += steps

    await asyncio.gather(*(call() for _ in range(callers)))
    return done / (time.perf_counter() - start)


def bare_inserts(path: Path, seconds: float, synchronous: str) -> float:
    """Give how many rows a second SQLite alone takes, one a commit."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute(f"PRAGMA synchronous = {synchronous}")
    db.execute("CREATE TABLE task (id TEXT PRIMARY KEY, body BLOB) WITHOUT ROWID")
    start = time.perf_counter()
    for number in count():
        if time.perf_counter() - start > seconds:
            break
        db.execute("INSERT INTO task VALUES (?, ?)", (f"{number:024x}", BODY))
    elapsed = time.perf_counter() - start
    db.close()
    return number / elapsed


async def fill(store: SqliteStore, target: int) -> None:
    """Queue tasks until so many wait."""
    waiting = sum(one.tasks for one in await store.queued())
    while waiting < target:
        step = min(1000, target - waiting)
        await asyncio.gather(*(store.create_task(new_task()) for _ in range(step)))
        waiting += step


async def claim_milliseconds(store: SqliteStore, times: int = 300) -> float:
    """Give what claiming one task and putting it back costs, as the median of some."""
    costs = []
    for number in range(times):
        start = time.perf_counter()
        (claim,) = await store.claim(REVISION.key, "node", [number.to_bytes(16)], 1)
        costs.append((time.perf_counter() - start) * 1000)
        await store.release(claim.lease)
    return sorted(costs)[times // 2]


async def measure(directory: Path, seconds: float, synchronous: str, queued: int) -> None:
    """Print all figures."""
    bare = bare_inserts(directory / "bare.sqlite", seconds, synchronous)
    print(f"bare sqlite3, one insert a commit    {bare:10,.0f} /s")

    store = SqliteStore(directory / "store.sqlite", synchronous="normal" if synchronous == "normal" else "full")
    await store.open()
    tokens = count(1)

    async def create() -> int:
        await store.create_task(new_task())
        return 1

    async def cycle() -> int:
        await store.create_task(new_task())
        (claim,) = await store.claim(REVISION.key, "node", [next(tokens).to_bytes(16)], 1)
        await store.accept(claim.lease, "node")
        await store.finish(claim.lease, "node", ANSWER)
        return 1

    async def batch_cycle() -> int:
        claims = await store.claim(REVISION.key, "node", [next(tokens).to_bytes(16) for _ in range(16)], 1)
        await asyncio.gather(*(store.accept(claim.lease, "node") for claim in claims))
        await asyncio.gather(*(store.finish(claim.lease, "node", ANSWER) for claim in claims))
        return len(claims)

    single = await rate(create, seconds)
    print(f"create_task, one caller              {single:10,.0f} /s")
    batched = await rate(create, seconds, 64)
    print(f"create_task, 64 callers              {batched:10,.0f} /s")
    print(f"create+claim+accept+finish, 1 caller {await rate(cycle, seconds):10,.0f} /s")
    print(f"create+claim+accept+finish, 64       {await rate(cycle, seconds, 64):10,.0f} /s")
    await fill(store, int(batched * seconds))
    print(f"claim of 16, accept, finish, 8 nodes {await rate(batch_cycle, seconds, 8):10,.0f} /s")
    await store.close()

    store = SqliteStore(directory / "queue.sqlite", synchronous="normal")
    await store.open()
    await fill(store, 1_000)
    few = await claim_milliseconds(store)
    await fill(store, queued)
    many = await claim_milliseconds(store)
    start = time.perf_counter()
    await store.queued()
    counted = (time.perf_counter() - start) * 1000
    start = time.perf_counter()
    await store.tasks("account", 100, None, None, "finished")
    await store.tasks("account", 100, None, REVISION.function, None)
    listed = (time.perf_counter() - start) * 1000
    print(f"claim, 1,000 wait                    {few:10.3f} ms")
    print(f"claim, {queued:<9,} wait                {many:10.3f} ms")
    print(f"queued(), {queued:<9,} wait             {counted:10.3f} ms")
    print(f"two lists of 100, {queued:<9,} wait     {listed:10.3f} ms")
    await store.close()

    print(f"ratio batched/single  {batched / single:.1f}")
    print(f"ratio single/bare     {single / bare:.2f}")
    print(f"ratio batched/bare    {batched / bare:.1f}")
    print(f"ratio claim cost      {many / few:.2f}")


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each rate is measured")
    parser.add_argument("--synchronous", choices=["full", "normal"], default="full")
    parser.add_argument("--queued", type=int, default=1_000_000, help="how many tasks wait for the last figures")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        asyncio.run(measure(Path(directory), args.seconds, args.synchronous, args.queued))


if __name__ == "__main__":
    main()
