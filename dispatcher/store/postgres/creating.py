"""Tasks as they are created, many in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from agent.protocol import Lease
from dispatcher.store import rows
from dispatcher.store.errors import BodyMissing, KeyReused
from dispatcher.store.postgres.catalog import keep_revisions
from dispatcher.store.postgres.connections import Db
from dispatcher.store.postgres.lives import Life, World
from dispatcher.store.postgres.tasks import WRITTEN, write_ends
from dispatcher.store.postgres.words import storable
from dispatcher.store.records import Ended, NewTask


class Given(Struct, frozen=True):
    """A task that was given to a node before it was written; see `Store.create_given`."""

    new: NewTask
    lease: Lease
    node: str
    assigned_ms: int
    accepted: bool
    ended: Ended | None


async def create(db: Db, asked: Sequence[NewTask | Given], _again: bool) -> list[Any]:
    """See `Store.create_task` and `Store.create_given`, for many at once.

    A task that is there already was written by an earlier try, whose commit broke off: its id is its own.
    """
    new = [one for one in asked if isinstance(one, NewTask)]
    given = [one for one in asked if isinstance(one, Given)]
    answers = await _create_new(db, new) if new else {}
    if given:
        await _create_given(db, given)
    return [answers[one.id] if isinstance(one, NewTask) else None for one in asked]


async def _create_new(db: Db, asked: Sequence[NewTask]) -> dict[str, Any]:
    bodies = await _bodies(db, asked)
    new = [one for one in asked if one.body_key is None or one.body_key in bodies]
    answers: dict[str, Any] = {one.id: BodyMissing(one.body_key) for one in asked if one not in new}
    if new:
        await keep_revisions(db, [one.revision for one in new])
        inserted = await _insert(db, new)
        kept = [one for one in new if one.id in inserted]
        if kept:
            await _insert_inputs(db, kept)
        answers |= {one.id: one.id for one in kept}
        rest = [one for one in new if one.id not in inserted]
        if rest:
            answers |= await _first_tries(db, rest)
    return answers


_GIVEN = (
    ("id", "text"),
    ("account", "text"),
    ("function", "text"),
    ("revision", "text"),
    ("issued_ms", "bigint"),
    ("fingerprint", "bytea"),
    *WRITTEN,
)

_INSERT_GIVEN = (
    f"INSERT INTO task ({', '.join(name for name, _ in _GIVEN)}) SELECT * FROM unnest("  # noqa: S608 - constants
    f"{', '.join(f'${number}::{kind}[]' for number, (_, kind) in enumerate(_GIVEN, 1))})"
    " ON CONFLICT DO NOTHING RETURNING id"
)


async def _create_given(db: Db, given: Sequence[Given]) -> None:
    """Insert tasks as they stand by now. Nothing is written that would be changed at once."""
    await keep_revisions(db, [one.new.revision for one in given])
    lives = {one.new.id: _life(one) for one in given}
    for life in lives.values():
        life.detail = storable(life.detail)
    fixed = [
        (one.new.id, one.new.account, one.new.revision.function, one.new.revision.key, one.new.issued_ms)
        for one in given
    ]
    columns = [
        *map(list, zip(*fixed, strict=True)),
        [one.new.fingerprint for one in given],
        *([getattr(lives[one.new.id], name) for one in given] for name, _ in WRITTEN),
    ]
    inserted = {row[0] for row in await db.fetch(_INSERT_GIVEN, *columns)}
    kept = [one.new for one in given if one.new.id in inserted]
    if kept:
        await _insert_inputs(db, kept)
        await write_ends(db, [lives[one.id] for one in kept], World(""))


def _life(given: Given) -> Life:
    """Let the task live up to now."""
    new, lease = given.new, given.lease
    life = Life(
        id=new.id,
        account=new.account,
        definition=b"",
        state="accepted" if given.accepted else "offered",
        phase=None,
        attempt=lease.attempt,
        issued_ms=new.issued_ms,
        assigned_ms=given.assigned_ms,
        finished_ms=None,
        progress=0,
        progress_message="",
        node=given.node,
        status=0,
        error=None,
        detail="",
        ending=None,
        spans=None,
        cold=None,
        token=lease.token,
        replica=None,
    )
    if given.ended is not None:
        life.end(given.ended, by=lease)
    return life


async def _bodies(db: Db, asked: Sequence[NewTask]) -> set[str]:
    keys = [one.body_key for one in asked if one.body_key is not None]
    if not keys:
        return set()
    return {
        row[0]
        for row in await db.fetch("SELECT key FROM body WHERE key = ANY($1) AND size IS NOT NULL FOR UPDATE", keys)
    }


async def _insert(db: Db, new: Sequence[NewTask]) -> set[str]:
    """Insert tasks but for those whose id or idempotency key is taken; give the ids of those inserted."""
    inserted = await db.fetch(
        "INSERT INTO task (id, account, function, revision, state, issued_ms, idempotency_key, fingerprint)"
        " SELECT id, account, function, revision, 'queued', issued_ms, idempotency_key, fingerprint"
        " FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::bytea[])"
        " AS new (id, account, function, revision, issued_ms, idempotency_key, fingerprint)"
        " ON CONFLICT DO NOTHING RETURNING id",
        [one.id for one in new],
        [one.account for one in new],
        [one.revision.function for one in new],
        [one.revision.key for one in new],
        [one.issued_ms for one in new],
        [one.idempotency_key for one in new],
        [one.fingerprint for one in new],
    )
    return {row[0] for row in inserted}


async def _insert_inputs(db: Db, new: Sequence[NewTask]) -> None:
    await db.execute(
        "INSERT INTO task_input (task, query, headers, body, body_size, body_key)"
        " SELECT * FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::bytea[], $5::bigint[], $6::text[])",
        [one.id for one in new],
        [one.query.encode("utf-8", "surrogatepass") for one in new],
        [rows.encode(one.headers) for one in new],
        [one.body for one in new],
        [one.body_size for one in new],
        [one.body_key for one in new],
    )
    large = [one for one in new if one.body_key is not None]
    if large:
        await db.execute(
            "UPDATE body SET used = TRUE, task = new.task FROM unnest($1::text[], $2::text[]) AS new (key, task)"
            " WHERE body.key = new.key AND body.size IS NOT NULL",
            [one.body_key for one in large],
            [one.id for one in large],
        )


async def _first_tries(db: Db, rest: Sequence[NewTask]) -> dict[str, Any]:
    """Find what stands where these tasks would be: their own first tries, or other tasks with their keys."""
    own = {row[0] for row in await db.fetch("SELECT id FROM task WHERE id = ANY($1)", [one.id for one in rest])}
    answers: dict[str, Any] = {one.id: one.id for one in rest if one.id in own}
    others = [one for one in rest if one.id not in own]
    for one in others:
        row = await db.fetchrow(
            "SELECT id, fingerprint FROM task WHERE account = $1 AND idempotency_key = $2",
            one.account,
            one.idempotency_key,
        )
        # The other task can have been removed since, which makes this one free to be created: by the next try.
        same = row is not None and row[1] == one.fingerprint
        answers[one.id] = row[0] if same else KeyReused(one.idempotency_key)
    keys = [one.body_key for one in others if one.body_key is not None]
    if keys:
        await db.execute("DELETE FROM body WHERE key = ANY($1) AND size IS NOT NULL AND NOT used", keys)
    return answers
