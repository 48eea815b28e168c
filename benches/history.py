"""What a history costs: claims and lists over PostgreSQL with many finished tasks, and while a sweep removes them.

    python benches/history.py [--history 1000000] [--seconds 5]

The server is made for the run, on this machine, and syncs its commits to disk. The ratios are what is to be compared.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

from agent.protocol import Lease
from benches.store import ANSWER, BODY, HEADERS, REVISION
from dispatcher.store.postgres import PostgresStore
from dispatcher.store.postgres.address import parse
from dispatcher.store.records import NewTask
from dispatcher.sweeper import REMOVE_BATCH, removed_gently
from tests import postgres

_numbers = count(1)


def new_task() -> NewTask:
    """Make a task such as a caller makes."""
    number = next(_numbers)
    return NewTask(f"{number:024x}", "account", REVISION, number, "a=1", HEADERS, BODY, len(BODY))


async def fill(store: PostgresStore, target: int) -> None:
    """Make so many tasks that have ended."""
    for _ in range(target // 2000):
        tasks = [new_task() for _ in range(2000)]
        await asyncio.gather(
            *(
                store.create_given(task, Lease(task.id, 1, task.id.encode()), "node", 1, accepted=True, ended=ANSWER)
                for task in tasks
            )
        )


async def median_ms(step: Callable[[], Awaitable[Any]], seconds: float) -> float:
    """Give the median of what a step costs, repeated for so long."""
    costs = []
    until = time.perf_counter() + seconds
    while (start := time.perf_counter()) < until:
        await step()
        costs.append((time.perf_counter() - start) * 1000)
    return sorted(costs)[len(costs) // 2]


async def costs(store: PostgresStore, seconds: float) -> dict[str, float]:
    """Measure what callers and nodes wait for, with a short queue."""
    await asyncio.gather(*(store.create_task(new_task()) for _ in range(100)))
    tokens = count(1)

    async def cycle() -> None:
        await store.create_task(new_task())
        (claim,) = await store.claim(REVISION.key, "node", [next(tokens).to_bytes(16)], 1)
        await store.finish(claim.lease, "node", ANSWER)

    async def claim() -> None:
        (claim,) = await store.claim(REVISION.key, "node", [next(tokens).to_bytes(16)], 1)
        await store.release(claim.lease)

    return {
        "claim and release": await median_ms(claim, seconds),
        "create, claim, finish": await median_ms(cycle, seconds),
        "list of 100": await median_ms(lambda: store.tasks("account", 100, None, None, None), seconds),
        "list of 100 finished of a function": await median_ms(
            lambda: store.tasks("account", 100, None, REVISION.function, "finished"), seconds
        ),
    }


async def measure(url: str, history: int, seconds: float) -> None:
    """Print the table."""
    store = PostgresStore(parse(url))
    await store.open()
    empty = await costs(store, seconds)
    await fill(store, history)
    full = await costs(store, seconds)
    removed, begun = 0, time.perf_counter()

    async def remove() -> int:
        nonlocal removed
        gone = await store.remove_finished(10**12, REMOVE_BATCH)
        removed += gone
        return gone

    removing = asyncio.create_task(removed_gently(remove))
    during = await costs(store, seconds)
    rate = removed / (time.perf_counter() - begun)
    removing.cancel()
    print(f"{'median in ms':36}{'empty':>9}{f'{history:,}':>12}{'ratio':>7}{'removing':>10}{'ratio':>7}")
    for name, before in empty.items():
        print(
            f"{name:36}{before:9.2f}{full[name]:12.2f}{full[name] / before:7.2f}"
            f"{during[name]:10.2f}{during[name] / before:7.2f}"
        )
    print(f"removed meanwhile                   {rate:9,.0f} tasks/s")
    await store.close()


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--history", type=int, default=1_000_000, help="tasks that have ended")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each figure is measured")
    args = parser.parse_args()
    with postgres.running() as cluster:
        asyncio.run(measure(cluster.database("bench"), args.history, args.seconds))


if __name__ == "__main__":
    main()
