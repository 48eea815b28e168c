"""What many tasks cost PostgreSQL: with a million that wait, with a month of history, and while that is removed.

The same steps are measured in turn on databases of one server, which is made for the run, on this machine, and syncs
its commits to disk. The medians are compared.

    python -m benches.many_tasks [--tasks 1000000] [--seconds 6]

measures with other settings than `python -m benches many_tasks`.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from statistics import median
from typing import Any

from agent.protocol import Lease
from benches.figures import Figure, table
from benches.store import ANSWER, REVISION, new_task
from dispatcher.store.postgres import PostgresStore
from dispatcher.store.postgres.address import parse
from dispatcher.sweeper import REMOVE_BATCH, removed_gently
from tests import postgres

FEW = 1000
ROUNDS = 6
LONG_AGO_MS = 10**12

COPIES = """
INSERT INTO task (id, account, function, revision, state, issued_ms, finished_ms, status, fingerprint)
  SELECT
    'a' || lpad(to_hex(n), 23, '0'), account, function, revision, state, issued_ms, finished_ms, status, fingerprint
  FROM task, generate_series(2, {tasks}) AS n;
INSERT INTO task_input (task, query, headers, body, body_size)
  SELECT id, query, headers, i.body, body_size FROM task, task_input AS i WHERE id LIKE 'a%';
INSERT INTO task_result (task, headers, body, body_size)
  SELECT id, headers, o.body, body_size FROM task, task_result AS o WHERE id LIKE 'a%';
"""
"""Makes many tasks of the only one that is there."""


class Steps:
    """What callers and nodes wait for, on one database."""

    def __init__(self, store: PostgresStore) -> None:
        self.store = store
        self._tokens = count(1)
        self._work: dict[str, Callable[[], Awaitable[Any]]] = {
            "claim and release": self._claim,
            "create, claim, finish": self._cycle,
            "list of 100": lambda: store.tasks("account", 100, None, None, None),
            "list of 100 finished of a function": lambda: store.tasks(
                "account", 100, None, REVISION.function, "finished"
            ),
        }

    async def measure(self, seconds: float, found: dict[str, list[float]]) -> None:
        """Repeat each step for so long, and add what it took, in milliseconds."""
        for name, work in self._work.items():
            until = time.perf_counter() + seconds
            while (begun := time.perf_counter()) < until:
                await work()
                found[name].append((time.perf_counter() - begun) * 1000)

    async def _claim(self) -> None:
        (claim,) = await self.store.claim(REVISION.key, "node", [next(self._tokens).to_bytes(16)], 1)
        await self.store.release(claim.lease)

    async def _cycle(self) -> None:
        await self.store.create_task(new_task())
        (claim,) = await self.store.claim(REVISION.key, "node", [next(self._tokens).to_bytes(16)], 1)
        await self.store.finish(claim.lease, "node", ANSWER)


@asynccontextmanager
async def filled(cluster: postgres.Cluster, name: str, *, waiting: int, ended: int = 0) -> AsyncIterator[Steps]:
    """Give the steps on a database with so many tasks."""
    store = PostgresStore(parse(cluster.database(name)))
    await store.open()
    if ended:
        task = new_task()
        lease = Lease(task.id, 1, task.id.encode())
        await store.create_given(task, lease, "node", 1, accepted=True, ended=ANSWER)
        await asyncio.to_thread(cluster.sql, COPIES.format(tasks=ended), name)
    if waiting > FEW:
        await store.create_task(new_task())
        await asyncio.to_thread(cluster.sql, COPIES.format(tasks=waiting), name)
    else:
        await asyncio.gather(*(store.create_task(new_task()) for _ in range(waiting)))
    cluster.sql("ANALYZE", name)  # as autovacuum does it, after a while
    try:
        yield Steps(store)
    finally:
        await store.close()


Found = dict[str, dict[str, float]]
"""Medians, by setting and step."""


async def measure(tasks: int, seconds: float) -> tuple[Found, float]:
    """Measure; also give how many tasks a second a sweep removed meanwhile."""
    found: dict[str, dict[str, list[float]]] = {}
    async with AsyncExitStack() as stack:
        cluster = stack.enter_context(postgres.running())
        settings = {
            "few": await stack.enter_async_context(filled(cluster, "few", waiting=FEW)),
            "waiting": await stack.enter_async_context(filled(cluster, "waiting", waiting=tasks)),
            "history": await stack.enter_async_context(filled(cluster, "history", waiting=FEW, ended=tasks)),
        }
        for _ in range(ROUNDS):
            for setting, steps in settings.items():
                await steps.measure(seconds / ROUNDS, found.setdefault(setting, defaultdict(list)))
        removed, begun, store = 0, time.perf_counter(), settings["history"].store

        async def remove() -> int:
            nonlocal removed
            gone = await store.remove_finished(LONG_AGO_MS, REMOVE_BATCH)
            removed += gone
            return gone

        removing = asyncio.create_task(removed_gently(remove))
        await settings["history"].measure(seconds, found.setdefault("removing", defaultdict(list)))
        rate = removed / (time.perf_counter() - begun)
        removing.cancel()
        await asyncio.wait([removing])
    return {setting: {step: median(took) for step, took in steps.items()} for setting, steps in found.items()}, rate


async def run(details: dict[str, Any], tasks: int = 1_000_000, seconds: float = 6.0) -> list[Figure]:
    """Measure."""
    found, rate = await measure(tasks, seconds)
    details.update(medians_ms=found, removed_a_second=rate)
    figures = []
    for setting, words in (
        ("waiting", f"{tasks:,} wait ÷ {FEW:,}"),
        ("history", f"{tasks:,} ended ÷ none"),
        ("removing", f"while a sweep removes {rate:,.0f} a second ÷ none"),
    ):
        for step, few in found["few"].items():
            claim_of_many = (setting, step) == ("waiting", "claim and release")
            note = f"{found[setting][step]:.2f} ms ÷ {few:.2f} ms"
            ratio = found[setting][step] / few
            figures.append(
                Figure(f"PostgreSQL, {step}: {words}", ratio, at_most=1.3 if claim_of_many else None, note=note)
            )
    return figures


def main() -> None:
    """Read the arguments, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=6.0, help="how long each figure is measured")
    asked = parser.parse_args()
    print(table(asyncio.run(run({}, asked.tasks, asked.seconds))))


if __name__ == "__main__":
    main()
