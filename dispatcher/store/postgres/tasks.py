"""What happens to tasks after their creation, and what is read of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct

from agent.protocol import Lease, Log
from dispatcher.store import rows
from dispatcher.store.postgres.access import add_lines
from dispatcher.store.postgres.catalog import forget_revisions
from dispatcher.store.postgres.connections import Db
from dispatcher.store.postgres.lives import Finish, Life, Step, World, task_of, without_task
from dispatcher.store.postgres.words import storable
from dispatcher.store.records import Claim, Ended, Leased, Queued, Result, State, Task, TaskLine

# All f-strings below put constants of `rows` and of this module into SQL, and nothing else.
# ruff: noqa: S608

ID = 'id COLLATE "POSIX"'
"""The id as the indexes of lists have it: see the migration."""

_TASKS = f"SELECT {rows.TASK} FROM task t JOIN revision r ON r.key = t.revision"

_LIVES = (
    f"SELECT {rows.TASK}, t.token, s.replica FROM task t JOIN revision r ON r.key = t.revision"
    " LEFT JOIN seat s ON s.node = t.node"
)

_ENDABLE = (
    "t.id = $1 AND t.node = $4 AND t.token = $3 AND (t.state IN ('offered', 'accepted') AND t.attempt = $2"
    " OR t.state = 'queued' AND t.attempt = $2 + 1)"
)
"""The lease can end its task: it is the present one, or was lost and nobody claimed the task since."""


_RANGES: dict[str | None, list[str]] = {
    **{state: [f"state = '{state}'"] for state in State},
    None: [f"state = '{state}'" for state in State],
    "active": [f"state = '{state}'" for state in (State.QUEUED, State.OFFERED, State.ACCEPTED)],
    "failed": ["state = 'finished' AND status >= 400"],
}
"""What a list may be filtered by: conditions, each of which is a range of an index."""


class Wanted(Struct, frozen=True):
    """A claim; see `Store.claim`."""

    revision_key: str
    node: str
    tokens: Sequence[bytes]
    now_ms: int


# what owners read


async def task(db: Db, account: str, task_id: str) -> Task | None:
    """See `Store.task`."""
    row = await db.fetchrow(f"{_TASKS} WHERE t.id = $1 AND t.account = $2", task_id, account)
    return None if row is None else rows.task(row)


async def tasks(
    db: Db, account: str, limit: int, before: str | None, *, function_id: str | None, state: str | None
) -> list[TaskLine]:
    """See `Store.tasks`. Each state is a range of an index, read from its newest end; the ranges are merged."""
    ranges, phase = _RANGES.get(state), None
    if ranges is None:
        ranges, phase = _RANGES[State.ACCEPTED], state
    given: list[Any] = [account, limit]
    conditions = ["account = $1"]
    for column, comparison, value in ((ID, "<", before), ("function", "=", function_id), ("phase", "=", phase)):
        if value is not None:
            given.append(value)
            conditions.append(f"{column} {comparison} ${len(given)}")
    merged = " UNION ALL ".join(
        f"(SELECT {rows.LINE} FROM task WHERE {one} AND {' AND '.join(conditions)} ORDER BY {ID} DESC LIMIT $2)"
        for one in ranges
    )
    found = await db.fetch(f"SELECT * FROM ({merged}) AS merged ORDER BY id DESC LIMIT $2", *given)
    return [rows.task_line(row) for row in found]


async def result(db: Db, account: str, task_id: str) -> Result | None:
    """See `Store.result`."""
    row = await db.fetchrow(
        f"SELECT {rows.RESULT} FROM task t JOIN task_result o ON o.task = t.id WHERE t.id = $1 AND t.account = $2",
        task_id,
        account,
    )
    return None if row is None else rows.result(row)


async def log(db: Db, account: str, task_id: str) -> Log | None:
    """See `Store.log`."""
    row = await db.fetchrow(
        f"SELECT t.finished_ms, {rows.LOG} FROM task t LEFT JOIN task_log l ON l.task = t.id"
        " WHERE t.id = $1 AND t.account = $2",
        task_id,
        account,
    )
    if row is None or row[0] is None:
        return None
    return Log() if row[1] is None else rows.log(tuple(row)[1:])


# from the queue to a node


async def queued(db: Db) -> list[Queued]:
    """See `Store.queued`."""
    found = await db.fetch(
        f"SELECT {rows.OWNED}, waiting.count FROM (SELECT revision, count(*) AS count"
        " FROM task WHERE state = 'queued' GROUP BY revision) AS waiting"
        " JOIN revision r ON r.key = waiting.revision"
    )
    return [Queued(rows.revision(definition), account, count) for definition, account, count in found]


async def oldest_queued(db: Db, revision_keys: Sequence[str]) -> int | None:
    """See `Store.oldest_queued`."""
    # A look into the index for each revision, however many tasks of it wait.
    oldest: int | None = await db.fetchval(
        "SELECT min((SELECT issued_ms FROM task WHERE state = 'queued' AND revision = key"
        " ORDER BY issued_ms LIMIT 1)) FROM unnest($1::text[]) AS keys (key)",
        list(revision_keys),
    )
    return oldest


async def leased(db: Db, replica: str, nodes: Sequence[str] | None = None) -> list[Leased]:
    """List what nodes hold whose session is at a dispatcher, or nowhere; or what some nodes hold."""
    found = await db.fetch(
        f"SELECT {rows.LEASED} FROM task t JOIN revision r ON r.key = t.revision LEFT JOIN seat s ON s.node = t.node"
        " WHERE t.state IN ('offered', 'accepted')"
        + (" AND (s.replica IS NULL OR s.replica = $1)" if nodes is None else " AND t.node = ANY($1)"),
        replica if nodes is None else nodes,
    )
    return [rows.leased(row) for row in found]


async def claim(db: Db, replica: str, wanted: Sequence[Wanted]) -> list[list[Claim]]:
    """See `Store.claim`, for many at once. A node whose session is with another dispatcher by now gets nothing."""
    elsewhere = {
        row[0]
        for row in await db.fetch(
            "SELECT node FROM seat WHERE node = ANY($1) AND replica <> $2", [one.node for one in wanted], replica
        )
    }
    claims: list[list[Claim]] = [[] for _ in wanted]
    granted: list[tuple[str, str, bytes, int]] = []
    for key in {one.revision_key: None for one in wanted}:
        places = [
            (index, token)
            for index, one in enumerate(wanted)
            if one.revision_key == key and one.node not in elsewhere
            for token in one.tokens
        ]
        if not places:
            continue
        found = await db.fetch(
            f"SELECT {rows.CLAIM} FROM task t JOIN revision r ON r.key = t.revision JOIN task_input i ON i.task = t.id"
            " WHERE t.revision = $1 AND t.state = 'queued' ORDER BY t.issued_ms, t.id LIMIT $2"
            " FOR UPDATE OF t SKIP LOCKED",
            key,
            len(places),
        )
        for row, (index, token) in zip(found, places, strict=False):
            *first, query, headers, body, body_size = row
            made = rows.claim((*first, query.decode("utf-8", "surrogatepass"), headers, body, body_size), token)
            claims[index].append(made)
            granted.append((made.lease.task, wanted[index].node, token, wanted[index].now_ms))
    if granted:
        ids, nodes, tokens, times = zip(*granted, strict=True)
        await db.execute(
            "UPDATE task SET state = 'offered', phase = NULL, node = new.node, token = new.token,"
            " assigned_ms = new.assigned_ms"
            " FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bigint[]) AS new (id, node, token, assigned_ms)"
            " WHERE task.id = new.id",
            *map(list, (ids, nodes, tokens, times)),
        )
    return claims


async def input_of(db: Db, lease: Lease, node_id: str) -> tuple[str | None, bytes | None, int] | None:
    """See `Store.input_of`."""
    row = await db.fetchrow(
        f"SELECT i.body_key, i.body, i.body_size FROM task t JOIN task_input i ON i.task = t.id WHERE {_ENDABLE}",
        *(lease.task, lease.attempt, lease.token, node_id),
    )
    return None if row is None else tuple(row)


async def holds(db: Db, lease: Lease, node_id: str) -> bool:
    """See `Store.holds`."""
    row = await db.fetchrow(
        f"SELECT 1 FROM task t WHERE {_ENDABLE}", *(lease.task, lease.attempt, lease.token, node_id)
    )
    return row is not None


async def was_cancelled(db: Db, lease: Lease, node_id: str) -> bool:
    """See `Store.was_cancelled`."""
    row = await db.fetchrow(
        "SELECT 1 FROM task WHERE id = $1 AND attempt = $2 AND token = $3 AND node = $4 AND state = 'cancelled'",
        *(lease.task, lease.attempt, lease.token, node_id),
    )
    return row is not None


# steps of a task's life


async def take(db: Db, replica: str, steps: Sequence[Step], *, again: bool) -> list[Any]:
    """Take steps of tasks, in their order, on locked rows, and write back what they changed."""
    ids = sorted({task_of(step) for step in steps})
    # Locked in the order of their ids, so that no two transactions wait for each other.
    found = await db.fetch(f"{_LIVES} WHERE t.id = ANY($1) ORDER BY t.id FOR UPDATE OF t", ids)
    lives = {row[0]: Life(*row) for row in found}
    keys = [step.ended.body_key for step in steps if isinstance(step, Finish) and step.ended.body_key is not None]
    world = World(replica, await _sizes(db, keys), again)
    answers = []
    for step in steps:
        life = lives.get(task_of(step))
        answers.append(without_task(step) if life is None else step.apply(life, world))
    await _write_back(db, lives.values(), world)
    if world.audit:
        await add_lines(db, world.audit)
    if keys:
        await db.execute("DELETE FROM body WHERE key = ANY($1) AND size IS NOT NULL AND NOT used", keys)
    return answers


async def expire_queued(
    db: Db, replica: str, revision_key: str, issued_before_ms: int, *, ended: Ended, limit: int
) -> list[str]:
    """See `Store.expire_queued`."""
    found = await db.fetch(
        f"{_LIVES} WHERE t.revision = $1 AND t.state = 'queued' AND t.issued_ms < $2"
        " ORDER BY t.issued_ms, t.id LIMIT $3 FOR UPDATE OF t SKIP LOCKED",
        *(revision_key, issued_before_ms, limit),
    )
    lives = [Life(*row) for row in found]
    for life in lives:
        life.end(ended)
    await _write_back(db, lives, World(replica))
    return [life.id for life in lives]


async def _sizes(db: Db, keys: Sequence[str]) -> dict[str, int]:
    if not keys:
        return {}
    found = await db.fetch("SELECT key, size FROM body WHERE key = ANY($1) AND size IS NOT NULL FOR UPDATE", keys)
    return {row[0]: row[1] for row in found}


WRITTEN = (
    ("state", "text"),
    ("phase", "text"),
    ("attempt", "integer"),
    ("node", "text"),
    ("token", "bytea"),
    ("assigned_ms", "bigint"),
    ("finished_ms", "bigint"),
    ("progress", "integer"),
    ("progress_message", "text"),
    ("status", "integer"),
    ("error", "text"),
    ("detail", "text"),
    ("ending", "text"),
    ("spans", "bytea"),
    ("cold", "boolean"),
)
"""Columns of a task that a step may change."""

_UPDATE = (
    f"UPDATE task SET {', '.join(f'{name} = new.{name}' for name, _ in WRITTEN)} FROM unnest($1::text[],"
    f" {', '.join(f'${number}::{kind}[]' for number, (_, kind) in enumerate(WRITTEN, 2))})"
    f" AS new (id, {', '.join(name for name, _ in WRITTEN)}) WHERE task.id = new.id"
)


async def _write_back(db: Db, lives: Iterable[Life], world: World) -> None:
    changed = [life for life in lives if life.changed]
    if not changed:
        return
    for life in changed:
        life.detail, life.progress_message = storable(life.detail), storable(life.progress_message)
    columns = [[getattr(life, name) for life in changed] for name, _ in WRITTEN]
    await db.execute(_UPDATE, [life.id for life in changed], *columns)
    await write_ends(db, changed, world)


async def write_ends(db: Db, changed: Sequence[Life], world: World) -> None:
    """Write the results of tasks that ended, and the logs that came."""
    ends = [(life.id, life.ended) for life in changed if life.ended is not None]
    if ends:
        await _write_results(db, ends, world)
    logged = [(life.id, life.log) for life in changed if life.log != Log()]
    if logged:
        await _write_logs(db, logged)


async def _write_results(db: Db, ends: Sequence[tuple[str, Ended]], world: World) -> None:
    ids = [task_id for task_id, _ in ends]
    uploaded = [(task_id, ended.body_key) for task_id, ended in ends if ended.body_key is not None]
    if uploaded:
        await db.execute(
            "UPDATE body SET used = TRUE, task = new.task FROM unnest($1::text[], $2::text[]) AS new (task, key)"
            " WHERE body.key = new.key AND body.size IS NOT NULL",
            *map(list, zip(*uploaded, strict=True)),
        )
    await db.execute(
        "INSERT INTO task_result (task, headers, body, body_size, body_key)"
        " SELECT * FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::bigint[], $5::text[])",
        ids,
        [rows.encode(ended.headers) for _, ended in ends],
        [ended.body for _, ended in ends],
        # What was uploaded is as large as it is, whatever the node says.
        [ended.body_size if ended.body_key is None else world.bodies[ended.body_key] for _, ended in ends],
        [ended.body_key for _, ended in ends],
    )
    # What other attempts have uploaded is of no use any more.
    await db.execute("DELETE FROM body WHERE task = ANY($1) AND NOT used", ids)


async def _write_logs(db: Db, logged: Sequence[tuple[str, Log]]) -> None:
    await db.execute(
        "INSERT INTO task_log (task, head, omitted, tail)"
        " SELECT * FROM unnest($1::text[], $2::bytea[], $3::bigint[], $4::bytea[])"
        " ON CONFLICT (task) DO UPDATE SET head = excluded.head, omitted = excluded.omitted, tail = excluded.tail",
        [task_id for task_id, _ in logged],
        [one.head for _, one in logged],
        [one.omitted for _, one in logged],
        [one.tail for _, one in logged],
    )


# retention


async def remove_finished(db: Db, before_ms: int, limit: int) -> int:
    """See `Store.remove_finished`. What another dispatcher is removing is passed over."""
    found = await db.fetch(
        "SELECT id, function FROM task WHERE finished_ms < $1 ORDER BY finished_ms, id LIMIT $2 FOR UPDATE SKIP LOCKED",
        *(before_ms, limit),
    )
    ids = [row[0] for row in found]
    if not ids:
        return 0
    for table in ("task_input", "task_result", "task_log", "body"):
        await db.execute(f"DELETE FROM {table} WHERE task = ANY($1)", ids)
    await db.execute("DELETE FROM task WHERE id = ANY($1)", ids)
    await forget_revisions(db, list({row[1] for row in found}))
    return len(ids)
