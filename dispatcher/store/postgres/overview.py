"""What overviews show: counts, chosen tasks, recent ends. Every statement touches a bounded number of rows."""

from __future__ import annotations

from collections.abc import Sequence

from dispatcher.store import rows
from dispatcher.store.postgres.connections import Db
from dispatcher.store.postgres.tasks import ID
from dispatcher.store.records import NodeCounts, RecentEnd, State, TaskCounts, TaskLine

# All f-strings below put constants of `rows` and of this module into SQL, and nothing else.
# ruff: noqa: S608


async def task_lines(db: Db, account: str, ids: Sequence[str]) -> list[TaskLine]:
    """See `Store.task_lines`."""
    found = await db.fetch(
        f"SELECT {rows.LINE} FROM task WHERE id = ANY($1) AND account = $2 ORDER BY id DESC", list(ids), account
    )
    return [rows.task_line(row) for row in found]


async def tasks_on_node(db: Db, account: str, node_id: str, limit: int) -> list[TaskLine]:
    """See `Store.tasks_on_node`."""
    found = await db.fetch(
        f"SELECT {rows.LINE} FROM task"
        f" WHERE node = $1 AND state IN ('offered', 'accepted') AND account = $2 ORDER BY {ID} DESC LIMIT $3",
        *(node_id, account, limit),
    )
    return [rows.task_line(row) for row in found]


async def task_counts(db: Db, account: str, most: int, function_id: str | None, above: str) -> TaskCounts:
    """See `Store.task_counts`. Each count reads a range of an index."""
    owner = "account" if function_id is None else "function"
    conditions = [*(f"state = '{state}'" for state in State), "state = 'finished' AND status >= 400"]
    counts = ", ".join(
        f"(SELECT count(*) FROM (SELECT 1 FROM task WHERE {owner} = $1 AND {condition} AND {ID} > $2 LIMIT $3) AS f)"
        for condition in conditions
    )
    return TaskCounts(*await db.fetchrow(f"SELECT {counts}", function_id or account, above, most))


async def recent_ends(db: Db, account: str, function_id: str, limit: int) -> list[RecentEnd]:
    """See `Store.recent_ends`."""
    found = await db.fetch(
        f"SELECT {rows.RECENT_END} FROM task"
        f" WHERE function = $1 AND state = 'finished' AND account = $2 ORDER BY {ID} DESC LIMIT $3",
        *(function_id, account, limit),
    )
    return [rows.recent_end(row) for row in found]


async def node_counts(db: Db, account: str, most: int) -> NodeCounts:
    """See `Store.node_counts`."""
    row = await db.fetchrow(
        "SELECT count(*), count(*) FILTER (WHERE disabled)"
        " FROM (SELECT disabled FROM node WHERE account = $1 LIMIT $2) AS counted",
        *(account, most),
    )
    return NodeCounts(*row)
