"""What one offer costs, against the nodes that are connected and the tasks that wait.

An offer begins when a node says that it has room, and ends when a task is in its session: matched, claimed in the store
(SQLite) and sent. Measured is the CPU of the process with the store's threads, for one offer after the other, in turn
with few and with many; the medians of the rounds are compared.

    python -m benches.offers [--nodes 10000] [--queued 1000000]

measures with other settings than `python -m benches offers`, and draws the picture of docs/scale.md.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import msgspec

from agent.protocol import Capabilities, Credit, DispatcherMessage, Offer, Revision
from benches.figures import Figure, table
from benches.picture import Line, draw
from dispatcher.events import Events
from dispatcher.leases import LeaseTable
from dispatcher.matching import Matching
from dispatcher.metrics import Metrics
from dispatcher.queue import Limits, Queue
from dispatcher.store.sqlite import SqliteStore

PICTURE = Path("var/offers.svg")
FUNCTIONS = 200
ACCOUNTS = 20
OFFERS = 300
ROUNDS = 7
FEW_NODES, FEW_QUEUED = 10, 1000
MANY_UNMET = 1000
"""Sets of requirements that no node meets, and of which a task waits each."""

CAPABILITIES = Capabilities(4, 4096, 2.0)
FULL = Credit(0, 0, 0)


class Offered:
    """The session of a node, which only counts."""

    def __init__(self, offered: asyncio.Queue[Offer]) -> None:
        self._offered = offered

    def send(self, *messages: DispatcherMessage) -> None:
        """Count offers."""
        for message in messages:
            if isinstance(message, Offer):
                self._offered.put_nowait(message)

    def close(self, reason: str, retry_after: float = 0) -> None:
        """Nobody closes it."""


class Setting(NamedTuple):
    """What an offer is measured with: nodes, tasks that wait, and sets of requirements that no node meets."""

    nodes: int
    queued: int
    unmet: int = 0


def fill(path: Path, queued: int, unmet: int) -> None:
    """Put so many tasks that wait into a store, of functions of several accounts, with requirements of five kinds.

    One more waits for each set of requirements that no node meets.
    """
    revisions = [
        Revision(f"{number:024x}", 1, f"image-{number}", mem_size=256 * (number % 5)) for number in range(FUNCTIONS)
    ]
    strange = [
        Revision(f"{FUNCTIONS + number:024x}", 1, "image", cpu_count=64, mem_size=1 + number) for number in range(unmet)
    ]
    with sqlite3.connect(path) as database:
        database.executemany(
            "INSERT INTO revision VALUES (?, ?, ?)",
            [(each.key, each.function, msgspec.json.encode(each)) for each in (*revisions, *strange)],
        )
        database.execute(
            "INSERT INTO task (id, account, function, revision, state, issued_ms, fingerprint)"
            " WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?)"
            " SELECT printf('%024x', i), printf('%024x', i % ?), printf('%024x', i % ?), printf('%024x.1', i % ?),"
            " 'queued', i, x'' FROM n",
            (queued, ACCOUNTS, FUNCTIONS, FUNCTIONS),
        )
        database.executemany(
            "INSERT INTO task (id, account, function, revision, state, issued_ms, fingerprint)"
            " VALUES (?, ?, ?, ?, 'queued', 0, x'')",
            [(each.function.replace("0", "f", 1), "strange", each.function, each.key) for each in strange],
        )
        database.execute(
            "INSERT INTO task_input (task, query, headers, body, body_size)"
            " SELECT id, '', x'5b5d', x'7b7d', 2 FROM task"
        )
    database.close()


class Bench:
    """A queue over a store, with nodes that say one after the other that they have room for one task."""

    def __init__(self, path: Path, setting: Setting) -> None:
        nodes = setting.nodes
        self._setting = setting
        self._store = SqliteStore(path, synchronous="normal")
        self._nodes = nodes
        self._path = path
        self._matching = Matching(random.Random(1))
        self._leases = LeaseTable()
        self._queue = Queue(
            self._store, self._matching, self._leases, Events(lambda _: None), Limits(), metrics=Metrics()
        )
        self._offered: asyncio.Queue[Offer] = asyncio.Queue()
        self._seen = [0] * nodes
        self._rng = random.Random(2)
        self._pump: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Fill the store, connect the nodes, and begin."""
        await self._store.open()
        await asyncio.to_thread(fill, self._path, self._setting.queued, self._setting.unmet)
        for number in range(self._nodes):
            images = [f"image-{self._rng.randrange(FUNCTIONS)}" for _ in range(5)]
            self._matching.node_joined(str(number), CAPABILITIES, FULL, images, [])
            self._queue.seat(str(number), Offered(self._offered))
        await self._queue.recount()
        self._pump = asyncio.create_task(self._queue.pump())

    async def close(self) -> None:
        """End."""
        if self._pump is not None:
            self._pump.cancel()
        await self._store.close()

    async def microseconds(self, offers: int) -> float:
        """Give what an offer costs. Each task goes back at once, so that as many wait as before."""
        spent = 0.0
        for _ in range(offers):
            number = self._rng.randrange(self._nodes)
            node, credit = str(number), Credit(1, 4096, 1, offers_seen=self._seen[number])
            begun = time.process_time()
            self._matching.node_changed(node, credit=credit)
            self._queue.room_changed()
            offer = await self._offered.get()
            spent += time.process_time() - begun
            self._seen[number] = offer.number
            self._matching.node_changed(node, credit=msgspec.structs.replace(FULL, offers_seen=offer.number))
            self._matching.node_warmed(node, offer.revision.key)
            self._leases.drop(offer.lease)
            await self._store.release(offer.lease)
            self._queue.put_back(offer.revision, offer.account)
        return spent / offers * 1e6


async def compare(settings: Sequence[Setting], offers: int, rounds: int) -> list[float]:
    """Measure with each setting, in turn; the medians, in microseconds."""
    with tempfile.TemporaryDirectory(prefix="fernd-offers-") as name:
        benches = [Bench(Path(name) / f"{number}.sqlite", setting) for number, setting in enumerate(settings)]
        try:
            for bench in benches:
                await bench.open()
                await bench.microseconds(offers // 4)
            found = [[await bench.microseconds(offers) for bench in benches] for _ in range(rounds)]
        finally:
            for bench in benches:
                await bench.close()
    return [median(column) for column in zip(*found, strict=True)]


def steps(few: int, many: int) -> list[int]:
    """Give the powers of ten from few to many."""
    found = [few]
    while found[-1] * 10 <= many:
        found.append(found[-1] * 10)
    return found


async def run(
    details: dict[str, Any], nodes: int = 10_000, queued: int = 1_000_000, offers: int = OFFERS, rounds: int = ROUNDS
) -> list[Figure]:
    """Measure, and draw the picture."""
    by_nodes = [Setting(count, FEW_QUEUED) for count in steps(FEW_NODES, nodes)]
    by_queued = [Setting(FEW_NODES, count) for count in steps(FEW_QUEUED, queued)]
    of_nodes, of_queued = await compare(by_nodes, offers, rounds), await compare(by_queued, offers, rounds)
    met, unmet = await compare([Setting(FEW_NODES, FEW_QUEUED, count) for count in (0, MANY_UNMET)], offers, rounds)
    node_points = [(float(setting.nodes), cost) for setting, cost in zip(by_nodes, of_nodes, strict=True)]
    queue_points = [(float(setting.queued), cost) for setting, cost in zip(by_queued, of_queued, strict=True)]
    details["by_nodes_microseconds"], details["by_queued_microseconds"] = node_points, queue_points
    PICTURE.parent.mkdir(exist_ok=True)
    lines = [Line("against nodes", node_points), Line("against tasks", queue_points)]
    PICTURE.write_text(draw("CPU of one offer, µs", "nodes, or tasks that wait", lines), encoding="utf-8")
    return [
        Figure(
            f"offer cost, {nodes:,} nodes ÷ {FEW_NODES}", of_nodes[-1] / of_nodes[0], at_most=1.2,
            note=f"{of_nodes[-1]:.0f} µs ÷ {of_nodes[0]:.0f} µs, {FEW_QUEUED:,} tasks wait",
        ),
        Figure(
            f"offer cost, {queued:,} tasks wait ÷ {FEW_QUEUED:,}", of_queued[-1] / of_queued[0], at_most=1.3,
            note=f"{of_queued[-1]:.0f} µs ÷ {of_queued[0]:.0f} µs, {FEW_NODES} nodes",
        ),
        Figure(
            f"offer cost, {MANY_UNMET:,} sets of requirements that no node meets ÷ none", unmet / met, at_most=1.2,
            note=f"{unmet:.0f} µs ÷ {met:.0f} µs, {FEW_NODES} nodes, {FEW_QUEUED:,} tasks that fit wait",
        ),
    ]  # fmt: skip


def main() -> None:
    """Read the arguments, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--queued", type=int, default=1_000_000)
    asked = parser.parse_args()
    details: dict[str, Any] = {}
    print(table(asyncio.run(run(details, asked.nodes, asked.queued))))
    print(details)


if __name__ == "__main__":
    main()
