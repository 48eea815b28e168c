"""What must not cost more when there is more: claims, lists and retention read ranges of indexes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.protocol import Lease
from dispatcher.store.postgres import PostgresStore, overview, tasks
from dispatcher.store.records import State
from tests.contract.store.cases import ACCOUNT, ANSWER, NODE, REVISION, new_task
from tests.contract.store.stores import postgres_store

HISTORY = 20_000


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[PostgresStore]:
    """A store with a history, of which the database has taken note."""
    subject = postgres_store(tmp_path)
    await subject.open()
    await asyncio.gather(
        *(
            subject.create_given(
                new_task(number), Lease(f"{number:024x}", 1, number.to_bytes(16)), NODE, 1, accepted=True, ended=ANSWER
            )
            for number in range(1, HISTORY)
        )
    )
    await asyncio.gather(*(subject.create_task(new_task(number)) for number in range(HISTORY, HISTORY + 200)))
    await subject._write(analyse)
    yield subject
    await subject.close()


async def analyse(db: Any) -> None:
    await db.execute("ANALYZE task")


class Explaining:
    """A connection that explains what it is asked, and does it too."""

    def __init__(self, db: Any) -> None:
        self._db = db
        self.read = 0
        """Rows that were read from the table of tasks, with those that a condition then left out."""

    async def fetch(self, statement: str, *given: Any) -> Any:
        plan = await self._db.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", *given)
        self._count(msgspec.json.decode(plan)[0]["Plan"])
        return await self._db.fetch(statement, *given)

    async def fetchrow(self, statement: str, *given: Any) -> Any:
        return (await self.fetch(statement, *given) or [None])[0]

    async def execute(self, statement: str, *given: Any) -> Any:
        return await self._db.execute(statement, *given)

    def _count(self, plan: dict[str, Any]) -> None:
        if plan.get("Relation Name") == "task":
            left_out = plan.get("Rows Removed by Filter", 0)
            self.read += (plan["Actual Rows"] + left_out) * plan["Actual Loops"]
        for part in plan.get("Plans", []):
            self._count(part)


async def rows_read(store: PostgresStore, work: Any, *args: Any, **kwargs: Any) -> int:
    async def explained(db: Any) -> int:
        explaining = Explaining(db)
        await work(explaining, *args, **kwargs)
        return explaining.read

    return int(await store._write(explained))


async def test_lists_and_counts_read_what_they_give(store: PostgresStore) -> None:
    """A list of ten reads about ten rows of each state that it is of, and a count up to a bound no more than that."""
    for function in (None, REVISION.function):
        for state in (None, *State, "active", "failed", "running"):
            read = await rows_read(store, tasks.tasks, ACCOUNT, 10, None, function_id=function, state=state)
            assert read <= 10 * len(State), (function, state)
        assert await rows_read(store, overview.task_counts, ACCOUNT, 10, function, "") <= 10 * (len(State) + 1)
    assert await rows_read(store, overview.recent_ends, ACCOUNT, REVISION.function, 10) == 10
    assert await rows_read(store, overview.tasks_on_node, ACCOUNT, NODE, 10) == 0


async def test_a_claim_and_a_removal_read_what_they_take(store: PostgresStore) -> None:
    """However many tasks wait or have ended."""
    wanted = [tasks.Wanted(REVISION.key, NODE, [number.to_bytes(16) for number in range(4)], 1)]
    assert await rows_read(store, tasks.claim, store.replica, wanted) == 4
    assert await rows_read(store, tasks.remove_finished, 10**12, 50) <= 50
