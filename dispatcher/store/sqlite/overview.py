"""What overviews show: counts, chosen tasks, recent ends. Every statement touches a bounded number of rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from dispatcher.store import rows
from dispatcher.store.records import NodeCounts, RecentEnd, TaskCounts, TaskLine

# All f-strings below put constants of `rows` and of this module into SQL, and nothing else.
# ruff: noqa: S608


def task_lines(db: sqlite3.Connection, account: str, ids: Sequence[str]) -> list[TaskLine]:
    """See `Store.task_lines`."""
    found = db.execute(
        f"SELECT {rows.LINE} FROM task WHERE id IN ({', '.join('?' * len(ids))}) AND account = ? ORDER BY id DESC",
        (*ids, account),
    )
    return [rows.task_line(row) for row in found]


def tasks_on_node(db: sqlite3.Connection, account: str, node_id: str, limit: int) -> list[TaskLine]:
    """See `Store.tasks_on_node`."""
    found = db.execute(
        f"SELECT {rows.LINE} FROM task INDEXED BY task_on_node"
        " WHERE node = ? AND state IN ('offered', 'accepted') AND account = ? ORDER BY id DESC LIMIT ?",
        (node_id, account, limit),
    )
    return [rows.task_line(row) for row in found]


def task_counts(db: sqlite3.Connection, account: str, most: int, function_id: str | None, above: str) -> TaskCounts:
    """See `Store.task_counts`. Each count reads a range of an index, and no row."""
    if function_id is None:
        owner, by_state, failed = "account = :account", "task_by_state", "task_failed"
    else:
        owner, by_state, failed = "function = :function", "task_by_function", "task_failed_by_function"
    ranges = [(by_state, f"state = '{state}'") for state in ("queued", "offered", "accepted", "finished", "cancelled")]
    counts = ", ".join(
        f"(SELECT count(*) FROM (SELECT 1 FROM task INDEXED BY {index}"
        f" WHERE {owner} AND {condition} AND id > :above LIMIT :most))"
        for index, condition in [*ranges, (failed, "state = 'finished' AND status >= 400")]
    )
    names = {"account": account, "function": function_id, "above": above, "most": most}
    return TaskCounts(*db.execute(f"SELECT {counts}", names).fetchone())


def recent_ends(db: sqlite3.Connection, account: str, function_id: str, limit: int) -> list[RecentEnd]:
    """See `Store.recent_ends`."""
    found = db.execute(
        f"SELECT {rows.RECENT_END} FROM task INDEXED BY task_by_function"
        " WHERE function = ? AND state = 'finished' AND account = ? ORDER BY id DESC LIMIT ?",
        (function_id, account, limit),
    )
    return [rows.recent_end(row) for row in found]


def node_counts(db: sqlite3.Connection, account: str, most: int) -> NodeCounts:
    """See `Store.node_counts`."""
    row = db.execute(
        "SELECT count(*), coalesce(sum(disabled), 0) FROM (SELECT disabled FROM node WHERE account = ? LIMIT ?)",
        (account, most),
    ).fetchone()
    return NodeCounts(*row)
