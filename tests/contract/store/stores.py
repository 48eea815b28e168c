"""The stores that the conformance suite runs over, and a program that writes to one until it is killed.

As a program: ``stores.py NAME PATH`` prints a line for each thing that the store has acknowledged.
"""

# ruff: noqa: T201 - its output is its testimony

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

from agent import logs
from dispatcher.store.base import Store
from dispatcher.store.pieces import CHUNK
from dispatcher.store.postgres import PostgresStore
from dispatcher.store.postgres.address import parse
from dispatcher.store.records import Ended, NewTask
from dispatcher.store.sqlite import SqliteStore
from tests import postgres
from tests.contract.store.cases import ACCOUNT, REVISION, one_at_a_time


def postgres_store(directory: Path) -> PostgresStore:
    """Make a store in the schema that stands for a directory."""
    url = postgres.shared().schema(postgres.name_of(directory))
    return PostgresStore(parse(url), pool=5)


STORES: dict[str, Callable[[Path], Store]] = {
    "sqlite": lambda directory: SqliteStore(directory / "store.sqlite"),
    "postgres": postgres_store,
}
"""By name: how to make a store that keeps everything under a directory."""


async def _write_for_ever(store: Store) -> None:
    await store.open()
    numbers = count(1)

    async def run_tasks(node: str) -> None:
        while True:
            number = next(numbers)
            task_id = f"{number:024x}"
            await store.create_task(NewTask(task_id, ACCOUNT, REVISION, number, "", [], b"in", 2))
            print("created", task_id, flush=True)
            (claim,) = await store.claim(REVISION.key, node, [number.to_bytes(16)], number)
            print("claimed", claim.lease.task, flush=True)
            await store.finish(claim.lease, node, Ended(number, 200, [], claim.lease.task.encode(), 24))
            print("finished", claim.lease.task, flush=True)

    async def write_bodies() -> None:
        while True:
            key = f"{next(numbers):024x}"
            await store.write_body(key, one_at_a_time(*[key.encode() * 20_000] * 3), 10 * CHUNK)
            await store.create_task(NewTask(key, ACCOUNT, REVISION, 0, "", [], None, 3 * 480_000, body_key=key))
            print("written", key, flush=True)

    await asyncio.gather(*(run_tasks(f"node-{number}") for number in range(8)), write_bodies())


if __name__ == "__main__":
    logs.configure("warning", "json")
    asyncio.run(_write_for_ever(STORES[sys.argv[1]](Path(sys.argv[2]))))
