"""What accounts own besides tasks: functions and nodes."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

import asyncpg
from msgspec import Struct

from agent.protocol import Revision
from dispatcher.store import rows
from dispatcher.store.errors import NameTaken, NodeDisabled, NodeTaken
from dispatcher.store.postgres.connections import Db
from dispatcher.store.postgres.words import storable
from dispatcher.store.records import Function, Node

# functions

_FUNCTIONS = f"SELECT {rows.FUNCTION} FROM function f JOIN revision r ON r.key = f.revision"  # noqa: S608 - constants


async def add_function(db: Db, function: Function) -> None:
    """See `Store.add_function`."""
    await keep_revisions(db, [function.revision])
    try:
        await db.execute(
            "INSERT INTO function (id, account, name, description, lang, type, created_ms, revision)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            *(function.id, function.account, function.name, storable(function.description)),
            *(function.lang, function.type, function.created_ms, function.revision.key),
        )
    except asyncpg.UniqueViolationError:
        raise NameTaken(function.name) from None


async def function(db: Db, account: str, function_id: str) -> Function | None:
    """See `Store.function`."""
    row = await db.fetchrow(f"{_FUNCTIONS} WHERE f.id = $1 AND f.account = $2", function_id, account)
    return None if row is None else rows.function(row)


async def function_named(db: Db, account: str, name: str) -> Function | None:
    """See `Store.function_named`."""
    row = await db.fetchrow(f"{_FUNCTIONS} WHERE f.account = $1 AND f.name = $2", account, storable(name))
    return None if row is None else rows.function(row)


async def functions(db: Db, account: str, limit: int, before: str | None) -> list[Function]:
    """See `Store.functions`."""
    found = await db.fetch(
        f"{_FUNCTIONS} WHERE f.account = $1 AND ($2::text IS NULL OR f.id < $2) ORDER BY f.id DESC LIMIT $3",
        *(account, before, limit),
    )
    return [rows.function(row) for row in found]


async def warm_revisions(db: Db, limit: int) -> list[Revision]:
    """See `Store.warm_revisions`."""
    found = await db.fetch(
        "SELECT r.definition FROM function f JOIN revision r ON r.key = f.revision"
        " WHERE (convert_from(r.definition, 'UTF8')::json ->> 'warm')::int > 0 ORDER BY f.id DESC LIMIT $1",
        limit,
    )
    return [rows.revision(definition) for (definition,) in found]


async def change_function(db: Db, function: Function, expected: int) -> bool:
    """See `Store.change_function`."""
    newest = await db.fetchval(
        "SELECT revision FROM function WHERE id = $1 AND account = $2 FOR UPDATE", function.id, function.account
    )
    if newest != f"{function.id}.{expected}":
        return False
    await keep_revisions(db, [function.revision])
    try:
        await db.execute(
            "UPDATE function SET name = $1, description = $2, lang = $3, type = $4, revision = $5 WHERE id = $6",
            *(function.name, storable(function.description), function.lang, function.type),
            *(function.revision.key, function.id),
        )
    except asyncpg.UniqueViolationError:
        raise NameTaken(function.name) from None
    return True


async def remove_function(db: Db, account: str, function_id: str) -> bool:
    """See `Store.remove_function`."""
    removed = await db.fetchval(
        "DELETE FROM function WHERE id = $1 AND account = $2 RETURNING id", function_id, account
    )
    if removed is not None:
        await forget_revisions(db, [function_id])
    return removed is not None


async def keep_revisions(db: Db, revisions: Sequence[Revision]) -> None:
    """Keep the revisions that functions or tasks of this transaction name, and let nobody forget them meanwhile."""
    wanted = {revision.key: revision for revision in revisions}
    while True:
        found = await db.fetch("SELECT key FROM revision WHERE key = ANY($1) FOR KEY SHARE", sorted(wanted))
        missing = [wanted[key] for key in sorted(wanted.keys() - {row[0] for row in found})]
        if not missing:
            return
        await db.execute(
            "INSERT INTO revision (key, function, definition)"
            " SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[]) ON CONFLICT DO NOTHING",
            [revision.key for revision in missing],
            [revision.function for revision in missing],
            [rows.encode(revision) for revision in missing],
        )


async def forget_revisions(db: Db, function_ids: Sequence[str]) -> None:
    """Forget the revisions of functions that are gone, with the environments in them, once they have no task left."""
    gone = await db.fetch(
        "SELECT key FROM revision r WHERE function = ANY($1)"
        " AND NOT EXISTS (SELECT 1 FROM function f WHERE f.id = r.function) ORDER BY key FOR UPDATE OF r",
        function_ids,
    )
    if gone:
        # A statement of its own, which sees the tasks of whoever held the revisions until now.
        await db.execute(
            "DELETE FROM revision r WHERE key = ANY($1)"
            " AND NOT EXISTS (SELECT 1 FROM function f WHERE f.id = r.function)"
            " AND NOT EXISTS (SELECT 1 FROM task t WHERE t.function = r.function)",
            [row[0] for row in gone],
        )


# nodes

_NODES = f"SELECT {rows.NODE} FROM node"  # noqa: S608 - constants


class Seen(Struct, frozen=True):
    """What a node last said of itself; see `Store.node_seen`."""

    node: str
    seen_ms: int
    version: str
    capabilities_json: bytes


async def join_node(
    db: Db, node_id: str, account: str, description: str, credential_hash: bytes, *, now_ms: int
) -> None:
    """See `Store.join_node`."""
    row = await db.fetchrow("SELECT account, disabled FROM node WHERE id = $1 FOR UPDATE", node_id)
    if row is not None:
        owner, disabled = row
        if owner != account:
            raise NodeTaken(node_id)
        if disabled:
            raise NodeDisabled(node_id)
    joined = await db.fetchval(
        "INSERT INTO node (id, account, description, joined_ms, credential_hash) VALUES ($1, $2, $3, $4, $5)"
        " ON CONFLICT (id) DO UPDATE SET description = excluded.description, joined_ms = excluded.joined_ms,"
        " credential_hash = excluded.credential_hash WHERE node.account = excluded.account AND NOT node.disabled"
        " RETURNING id",
        *(node_id, account, storable(description), now_ms, credential_hash),
    )
    if joined is None:
        raise NodeTaken(node_id)  # by somebody who came at the same moment


async def node_of_credential(db: Db, node_id: str, credential_hash: bytes) -> Node | None:
    """See `Store.node_of_credential`."""
    row = await db.fetchrow(f"SELECT credential_hash, {rows.NODE} FROM node WHERE id = $1", node_id)  # noqa: S608
    if row is None or not hmac.compare_digest(row[0], credential_hash):
        return None
    return rows.node(tuple(row)[1:])


async def node(db: Db, account: str, node_id: str) -> Node | None:
    """See `Store.node`."""
    row = await db.fetchrow(f"{_NODES} WHERE id = $1 AND account = $2", node_id, account)
    return None if row is None else rows.node(row)


async def nodes(db: Db, account: str, limit: int, after: str | None) -> list[Node]:
    """See `Store.nodes`."""
    found = await db.fetch(
        f"{_NODES} WHERE account = $1 AND ($2::text IS NULL OR id > $2) ORDER BY id LIMIT $3", *(account, after, limit)
    )
    return [rows.node(row) for row in found]


async def set_node_disabled(db: Db, account: str, node_id: str, disabled: bool) -> bool:
    """See `Store.set_node_disabled`."""
    changed = await db.fetchval(
        "UPDATE node SET disabled = $1 WHERE id = $2 AND account = $3 RETURNING id", disabled, node_id, account
    )
    return changed is not None


async def nodes_seen(db: Db, seen: Sequence[Seen], _again: bool) -> list[bool]:
    """See `Store.node_seen`, for many at once; of what is said twice of a node the last holds."""
    newest = {one.node: one for one in seen}
    ordered = [newest[node_id] for node_id in sorted(newest)]
    found = await db.fetch(
        "UPDATE node SET seen_ms = new.seen_ms, version = new.version, capabilities = new.capabilities"
        " FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bytea[]) AS new (id, seen_ms, version, capabilities)"
        " WHERE node.id = new.id AND NOT node.disabled RETURNING node.id",
        [one.node for one in ordered],
        [one.seen_ms for one in ordered],
        [storable(one.version) for one in ordered],
        [one.capabilities_json for one in ordered],
    )
    known = {row[0] for row in found}
    return [one.node in known for one in seen]
