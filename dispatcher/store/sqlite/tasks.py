"""What happens to a task in the database, from its creation to its removal. Run on the threads of `SqliteStore`.

A lease is the task's present one when task, attempt and token are those of the row. An attempt that
is lost leaves its token in the row and counts the attempt up: so the lost lease can still end the
task, until a claim overwrites the token.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from agent.protocol import Lease, Log, Phase
from dispatcher.store import rows
from dispatcher.store.access import AuditLine
from dispatcher.store.errors import BodyMissing
from dispatcher.store.records import Claim, Ended, Leased, Lost, NewTask, Queued, Result, State, Task, TaskLine, Verdict
from dispatcher.store.sqlite import access
from dispatcher.store.sqlite.catalog import forget_revisions, keep_revision

# All f-strings below put constants of `rows` and of this module into SQL, and nothing else.
# ruff: noqa: S608

_TASKS = f"SELECT {rows.TASK} FROM task t JOIN revision r ON r.key = t.revision"

_HELD = "id = :task AND attempt = :attempt AND token = :token AND state IN ('offered', 'accepted')"
"""The lease is the present one of a task that a node holds."""

_ENDABLE = (
    "token = :token AND (state IN ('offered', 'accepted') AND attempt = :attempt"
    " OR state = 'queued' AND attempt = :attempt + 1)"
)
"""The lease can end its task: it is the present one, or was lost and nobody claimed the task since."""

_ENDED_BY = "id = :task AND attempt = :attempt AND token = :token AND node = :node AND finished_ms IS NOT NULL"
"""The task has ended, and this was its last lease: by it, or because it was cancelled while it held the task."""

_FAILED = "state = 'finished' AND status >= 400"

_RANGES: dict[str | None, list[str]] = {
    **{state: [f"state = '{state}'"] for state in State},
    None: [f"state = '{state}'" for state in State],
    "active": [f"state = '{state}'" for state in (State.QUEUED, State.OFFERED, State.ACCEPTED)],
    "failed": [_FAILED],
}
"""What a list may be filtered by: conditions, each of which is a range of an index."""


def create(db: sqlite3.Connection, new: NewTask) -> str | None:
    """See `Store.create_task`; None where the idempotency key was used for something else."""
    if new.idempotency_key is not None:
        row = db.execute(
            "SELECT id, fingerprint FROM task WHERE account = ? AND idempotency_key = ?",
            (new.account, new.idempotency_key),
        ).fetchone()
        if row is not None:
            _drop_body(db, new.body_key)
            first, fingerprint = row
            return str(first) if fingerprint == new.fingerprint else None
    revision = new.revision
    keep_revision(db, revision)
    db.execute(
        "INSERT INTO task (id, account, function, revision, state, issued_ms, idempotency_key, fingerprint)"
        " VALUES (?, ?, ?, ?, 'queued', ?, ?, ?)",
        (new.id, new.account, revision.function, revision.key, new.issued_ms, new.idempotency_key, new.fingerprint),
    )
    _keep_input(db, new)
    if new.body_key is not None:
        _use_body(db, new.body_key, new.id)
    return new.id


def create_given(
    db: sqlite3.Connection,
    new: NewTask,
    lease: Lease,
    node_id: str,
    assigned_ms: int,
    *,
    accepted: bool,
    ended: Ended | None = None,
) -> None:
    """See `Store.create_given`. One row of each table: nothing is written that would be changed at once."""
    revision = new.revision
    keep_revision(db, revision)
    columns: dict[str, object] = {
        "id": new.id,
        "account": new.account,
        "function": revision.function,
        "revision": revision.key,
        "state": State.ACCEPTED if accepted else State.OFFERED,
        "attempt": lease.attempt,
        "node": node_id,
        "token": lease.token,
        "issued_ms": new.issued_ms,
        "assigned_ms": assigned_ms,
        "fingerprint": new.fingerprint,
    }
    if ended is not None:
        columns |= {
            "state": ended.state,
            "finished_ms": ended.finished_ms,
            "status": ended.status,
            "error": ended.error,
            "detail": ended.detail,
            "ending": ended.ending,
            "spans": rows.encode(ended.spans),
            "cold": ended.cold,
            "phase": ended.phase,
            "progress": 100 if ended.error is None else ended.percent or 0,
        }
    db.execute(
        f"INSERT INTO task ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})", tuple(columns.values())
    )
    _keep_input(db, new)
    if ended is not None:
        _keep_result(db, new.id, ended, ended.body_size)


# what owners read


def task(db: sqlite3.Connection, account: str, task_id: str) -> Task | None:
    """See `Store.task`."""
    row = db.execute(f"{_TASKS} WHERE t.id = ? AND t.account = ?", (task_id, account)).fetchone()
    return None if row is None else rows.task(row)


def tasks(
    db: sqlite3.Connection, account: str, limit: int, before: str | None, *, function_id: str | None, state: str | None
) -> list[TaskLine]:
    """See `Store.tasks`. Each state is a range of an index, read from its newest end; the ranges are merged."""
    by_state, failed = ("task_by_state", "task_failed")
    if function_id is not None:
        by_state, failed = ("task_by_function", "task_failed_by_function")
    conditions, phase = _RANGES.get(state), None
    if conditions is None:
        conditions, phase = _RANGES[State.ACCEPTED], state
    ranges = " UNION ALL ".join(
        f"SELECT * FROM (SELECT {rows.LINE} FROM task"
        f" INDEXED BY {failed if condition == _FAILED else by_state}"
        f" WHERE account = :account AND {condition} AND id < coalesce(:before, '~')"
        f" {'' if function_id is None else 'AND function = :function'}"
        f" {'' if phase is None else 'AND phase = :phase'}"
        " ORDER BY id DESC LIMIT :limit)"
        for condition in conditions
    )
    found = db.execute(
        f"{ranges} ORDER BY id DESC LIMIT :limit",
        {"account": account, "before": before, "function": function_id, "phase": phase, "limit": limit},
    )
    return [rows.task_line(row) for row in found]


def result(db: sqlite3.Connection, account: str, task_id: str) -> Result | None:
    """See `Store.result`."""
    row = db.execute(
        f"SELECT {rows.RESULT} FROM task t JOIN task_result o ON o.task = t.id WHERE t.id = ? AND t.account = ?",
        (task_id, account),
    ).fetchone()
    return None if row is None else rows.result(row)


def log(db: sqlite3.Connection, account: str, task_id: str) -> Log | None:
    """See `Store.log`."""
    row = db.execute(
        f"SELECT t.finished_ms, {rows.LOG} FROM task t LEFT JOIN task_log l ON l.task = t.id"
        " WHERE t.id = ? AND t.account = ?",
        (task_id, account),
    ).fetchone()
    if row is None or row[0] is None:
        return None
    return Log() if row[1] is None else rows.log(row[1:])


# from the queue to a node


def queued(db: sqlite3.Connection) -> list[Queued]:
    """See `Store.queued`."""
    found = db.execute(
        f"SELECT {rows.OWNED}, waiting.count FROM (SELECT revision, count(*) AS count"
        " FROM task INDEXED BY task_waiting WHERE state = 'queued' GROUP BY revision) AS waiting"
        " JOIN revision r ON r.key = waiting.revision"
    )
    return [Queued(rows.revision(definition), account, count) for definition, account, count in found]


def oldest_queued(db: sqlite3.Connection, revision_keys: Sequence[str]) -> int | None:
    """See `Store.oldest_queued`."""
    # A look into the index for each revision, however many tasks of it wait.
    oldest = [
        db.execute(
            "SELECT min(issued_ms) FROM task INDEXED BY task_waiting WHERE state = 'queued' AND revision = ?", (key,)
        ).fetchone()[0]
        for key in revision_keys
    ]
    return min((issued_ms for issued_ms in oldest if issued_ms is not None), default=None)


def leased(db: sqlite3.Connection) -> list[Leased]:
    """See `Store.leased`."""
    found = db.execute(
        f"SELECT {rows.LEASED} FROM task t JOIN revision r ON r.key = t.revision"
        " WHERE t.state IN ('offered', 'accepted')"
    )
    return [rows.leased(row) for row in found]


def claim(db: sqlite3.Connection, revision_key: str, node_id: str, tokens: Sequence[bytes], now_ms: int) -> list[Claim]:
    """See `Store.claim`."""
    found = db.execute(
        f"SELECT {rows.CLAIM} FROM task t INDEXED BY task_waiting"
        " JOIN revision r ON r.key = t.revision JOIN task_input i ON i.task = t.id"
        " WHERE t.revision = ? AND t.state = 'queued' ORDER BY t.issued_ms, t.id LIMIT ?",
        (revision_key, len(tokens)),
    ).fetchall()
    claims = [rows.claim(row, token) for row, token in zip(found, tokens, strict=False)]
    db.executemany(
        "UPDATE task SET state = 'offered', phase = NULL, node = ?, token = ?, assigned_ms = ? WHERE id = ?",
        [(node_id, claim.lease.token, now_ms, claim.lease.task) for claim in claims],
    )
    return claims


def accept(db: sqlite3.Connection, lease: Lease, node_id: str) -> bool:
    """See `Store.accept`."""
    changed = db.execute(
        f"UPDATE task SET state = 'accepted' WHERE {_HELD} AND node = :node", {**_names(lease), "node": node_id}
    )
    return changed.rowcount == 1


def release(db: sqlite3.Connection, lease: Lease) -> bool:
    """See `Store.release`."""
    changed = db.execute(
        f"UPDATE task SET state = 'queued', phase = NULL, node = NULL, token = NULL, assigned_ms = NULL WHERE {_HELD}",
        _names(lease),
    )
    return changed.rowcount == 1


def lose(db: sqlite3.Connection, lease: Lease, otherwise: Ended) -> Lost:
    """See `Store.lose`."""
    row = db.execute(
        f"SELECT definition FROM revision WHERE key = (SELECT revision FROM task WHERE {_HELD})", _names(lease)
    ).fetchone()
    if row is None:
        return Lost.STALE
    if lease.attempt > rows.revision(row[0]).retries:
        _end(db, lease.task, otherwise)
        return Lost.EXHAUSTED
    db.execute("UPDATE task SET state = 'queued', attempt = attempt + 1 WHERE id = ?", (lease.task,))
    return Lost.REQUEUED


def progress(db: sqlite3.Connection, lease: Lease, phase: Phase, percent: int | None, message: str) -> bool:
    """See `Store.progress`."""
    changed = db.execute(
        "UPDATE task SET phase = :phase, progress = max(progress, coalesce(:percent, 0)), progress_message ="
        " CASE WHEN :percent IS NULL AND :message = '' THEN progress_message ELSE :message END"
        f" WHERE {_HELD}",
        {**_names(lease), "phase": phase, "percent": percent, "message": message},
    )
    return changed.rowcount == 1


def input_of(db: sqlite3.Connection, lease: Lease, node_id: str) -> tuple[str | None, bytes | None, int] | None:
    """See `Store.input_of`."""
    row: tuple[str | None, bytes | None, int] | None = db.execute(
        "SELECT i.body_key, i.body, i.body_size FROM task t JOIN task_input i ON i.task = t.id"
        f" WHERE t.id = :task AND t.node = :node AND {_ENDABLE}",
        {**_names(lease), "node": node_id},
    ).fetchone()
    return row


def holds(db: sqlite3.Connection, lease: Lease, node_id: str) -> bool:
    """See `Store.holds`."""
    row = db.execute(
        f"SELECT 1 FROM task WHERE id = :task AND node = :node AND {_ENDABLE}", {**_names(lease), "node": node_id}
    ).fetchone()
    return row is not None


def was_cancelled(db: sqlite3.Connection, lease: Lease, node_id: str) -> bool:
    """See `Store.was_cancelled`."""
    row = db.execute(
        f"SELECT 1 FROM task WHERE {_ENDED_BY} AND state = 'cancelled'", {**_names(lease), "node": node_id}
    ).fetchone()
    return row is not None


# the end


def finish(db: sqlite3.Connection, lease: Lease, node_id: str, ended: Ended) -> Verdict:
    """See `Store.finish`."""
    if holds(db, lease, node_id):
        _end(db, lease.task, ended, by=lease)
        return Verdict.RECORDED
    _drop_body(db, ended.body_key)
    if was_cancelled(db, lease, node_id):
        _add_to_cancelled(db, lease.task, ended)
        return Verdict.CANCELLED
    repeated = db.execute(f"SELECT 1 FROM task WHERE {_ENDED_BY}", {**_names(lease), "node": node_id}).fetchone()
    return Verdict.STALE if repeated is None else Verdict.REPEATED


def cancel(
    db: sqlite3.Connection, account: str, task_id: str, ended: Ended, audit: AuditLine | None = None
) -> tuple[Task, bool] | None:
    """See `Store.cancel`."""
    found = task(db, account, task_id)
    if found is None:
        return None
    ends = found.finished_ms is None
    if ends:
        _end(db, task_id, ended, by=_present_lease(db, task_id))
        access.add_line(db, audit)
    return found, ends


def expire_queued(
    db: sqlite3.Connection, revision_key: str, issued_before_ms: int, ended: Ended, limit: int
) -> list[str]:
    """See `Store.expire_queued`."""
    found = db.execute(
        "SELECT id FROM task INDEXED BY task_waiting WHERE revision = ? AND state = 'queued' AND issued_ms < ?"
        " ORDER BY issued_ms, id LIMIT ?",
        (revision_key, issued_before_ms, limit),
    ).fetchall()
    ids = [str(task_id) for (task_id,) in found]
    for task_id in ids:
        _end(db, task_id, ended)
    return ids


def remove_finished(db: sqlite3.Connection, before_ms: int, limit: int) -> int:
    """See `Store.remove_finished`. Inputs, results and logs go with their task."""
    found = db.execute(
        "SELECT id, function FROM task INDEXED BY task_ended WHERE finished_ms < ? ORDER BY finished_ms, id LIMIT ?",
        (before_ms, limit),
    ).fetchall()
    db.executemany("DELETE FROM task WHERE id = ?", [(task_id,) for task_id, _ in found])
    db.executemany("DELETE FROM body WHERE task = ?", [(task_id,) for task_id, _ in found])
    for function_id in {function_id for _, function_id in found}:
        forget_revisions(db, function_id)
    return len(found)


def _end(db: sqlite3.Connection, task_id: str, ended: Ended, by: Lease | None = None) -> None:
    """End a task. Of its leases only ``by`` is known afterwards: it may ask again, or bring the log."""
    db.execute(
        "UPDATE task SET state = :state, finished_ms = :finished_ms, status = :status, error = :error,"
        " detail = :detail, ending = :ending, spans = :spans, cold = :cold,"
        " attempt = coalesce(:attempt, attempt), token = :token,"
        " phase = coalesce(:phase, phase),"
        " progress = CASE WHEN :answered THEN 100 ELSE max(progress, coalesce(:percent, 0)) END WHERE id = :task",
        {
            "task": task_id,
            "state": ended.state,
            "finished_ms": ended.finished_ms,
            "status": ended.status,
            "error": ended.error,
            "detail": ended.detail,
            "ending": ended.ending,
            "spans": rows.encode(ended.spans),
            "cold": ended.cold,
            "attempt": None if by is None else by.attempt,
            "token": None if by is None else by.token,
            "answered": ended.error is None,
            "phase": ended.phase,
            "percent": ended.percent,
        },
    )
    # What was uploaded is as large as it is, whatever the node says.
    size = ended.body_size if ended.body_key is None else _use_body(db, ended.body_key, task_id)
    _keep_result(db, task_id, ended, size)
    # What other attempts have uploaded is of no use any more.
    db.execute("DELETE FROM body WHERE task = ? AND NOT used", (task_id,))


def _keep_input(db: sqlite3.Connection, new: NewTask) -> None:
    db.execute(
        "INSERT INTO task_input (task, query, headers, body, body_size, body_key) VALUES (?, ?, ?, ?, ?, ?)",
        (new.id, new.query, rows.encode(new.headers), new.body, new.body_size, new.body_key),
    )


def _keep_result(db: sqlite3.Connection, task_id: str, ended: Ended, size: int) -> None:
    db.execute(
        "INSERT INTO task_result (task, headers, body, body_size, body_key) VALUES (?, ?, ?, ?, ?)",
        (task_id, rows.encode(ended.headers), ended.body, size, ended.body_key),
    )
    _keep_log(db, task_id, ended.log)


def _present_lease(db: sqlite3.Connection, task_id: str) -> Lease | None:
    """Give the lease by which a node holds a task now."""
    row = db.execute(
        "SELECT attempt, token FROM task WHERE id = ? AND state IN ('offered', 'accepted')", (task_id,)
    ).fetchone()
    return None if row is None else Lease(task_id, *row)


def _add_to_cancelled(db: sqlite3.Connection, task_id: str, ended: Ended) -> None:
    """Keep what the node knows of a task that was cancelled on it: once, in place of the log as it was then."""
    if db.execute("SELECT cold FROM task WHERE id = ?", (task_id,)).fetchone()[0] is None:
        db.execute("UPDATE task SET spans = ?, cold = ? WHERE id = ?", (rows.encode(ended.spans), ended.cold, task_id))
        _keep_log(db, task_id, ended.log)


def _keep_log(db: sqlite3.Connection, task_id: str, kept: Log) -> None:
    if kept != Log():
        db.execute(
            "INSERT OR REPLACE INTO task_log (task, head, omitted, tail) VALUES (?, ?, ?, ?)",
            (task_id, kept.head, kept.omitted, kept.tail),
        )


def _use_body(db: sqlite3.Connection, key: str, task_id: str) -> int:
    """Let a body be a task's, and give its size."""
    row = db.execute(
        "UPDATE body SET used = 1, task = ? WHERE key = ? AND size IS NOT NULL RETURNING size", (task_id, key)
    ).fetchone()
    if row is None:
        raise BodyMissing(key)
    return int(row[0])


def _drop_body(db: sqlite3.Connection, key: str | None) -> None:
    """Remove a body that was written for nothing."""
    if key is not None:
        db.execute("DELETE FROM body WHERE key = ? AND size IS NOT NULL AND NOT used", (key,))


def _names(lease: Lease) -> dict[str, object]:
    return {"task": lease.task, "attempt": lease.attempt, "token": lease.token}
