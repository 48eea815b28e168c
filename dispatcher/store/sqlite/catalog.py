"""What accounts own besides tasks: functions and nodes. Statements of `SqliteStore`, run on its threads."""

from __future__ import annotations

import hmac
import sqlite3

from agent.protocol import Revision
from dispatcher.store import rows
from dispatcher.store.errors import NameTaken, NodeDisabled, NodeTaken
from dispatcher.store.records import Function, Node

# functions

_FUNCTIONS = f"SELECT {rows.FUNCTION} FROM function f JOIN revision r ON r.key = f.revision"  # noqa: S608 - constants


def add_function(db: sqlite3.Connection, function: Function) -> None:
    """See `Store.add_function`."""
    _refuse_taken_name(db, function)
    keep_revision(db, function.revision)
    db.execute(
        "INSERT INTO function (id, account, name, description, lang, type, created_ms, revision)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            function.id,
            function.account,
            function.name,
            function.description,
            function.lang,
            function.type,
            function.created_ms,
            function.revision.key,
        ),
    )


def function(db: sqlite3.Connection, account: str, function_id: str) -> Function | None:
    """See `Store.function`."""
    row = db.execute(f"{_FUNCTIONS} WHERE f.id = ? AND f.account = ?", (function_id, account)).fetchone()
    return None if row is None else rows.function(row)


def function_named(db: sqlite3.Connection, account: str, name: str) -> Function | None:
    """See `Store.function_named`."""
    row = db.execute(f"{_FUNCTIONS} WHERE f.account = ? AND f.name = ?", (account, name)).fetchone()
    return None if row is None else rows.function(row)


def functions(db: sqlite3.Connection, account: str, limit: int, before: str | None) -> list[Function]:
    """See `Store.functions`."""
    found = db.execute(
        f"{_FUNCTIONS} WHERE f.account = ? AND f.id < coalesce(?, '~') ORDER BY f.id DESC LIMIT ?",
        (account, before, limit),
    )
    return [rows.function(row) for row in found]


def warm_revisions(db: sqlite3.Connection, limit: int) -> list[Revision]:
    """See `Store.warm_revisions`."""
    found = db.execute(
        "SELECT r.definition FROM function f JOIN revision r ON r.key = f.revision"
        " WHERE json_extract(CAST(r.definition AS TEXT), '$.warm') > 0 ORDER BY f.id DESC LIMIT ?",
        (limit,),
    )
    return [rows.revision(definition) for (definition,) in found]


def change_function(db: sqlite3.Connection, function: Function, expected: int) -> bool:
    """See `Store.change_function`."""
    row = db.execute(
        "SELECT revision FROM function WHERE id = ? AND account = ?", (function.id, function.account)
    ).fetchone()
    if row is None or row[0] != f"{function.id}.{expected}":
        return False
    _refuse_taken_name(db, function)
    keep_revision(db, function.revision)
    db.execute(
        "UPDATE function SET name = ?, description = ?, lang = ?, type = ?, revision = ? WHERE id = ?",
        (function.name, function.description, function.lang, function.type, function.revision.key, function.id),
    )
    return True


def remove_function(db: sqlite3.Connection, account: str, function_id: str) -> bool:
    """See `Store.remove_function`."""
    removed = db.execute("DELETE FROM function WHERE id = ? AND account = ?", (function_id, account)).rowcount == 1
    if removed:
        forget_revisions(db, function_id)
    return removed


def keep_revision(db: sqlite3.Connection, revision: Revision) -> None:
    """Keep a revision that a function or a task names, if it is not kept yet."""
    db.execute(
        "INSERT OR IGNORE INTO revision (key, function, definition) VALUES (?, ?, ?)",
        (revision.key, revision.function, rows.encode(revision)),
    )


def forget_revisions(db: sqlite3.Connection, function_id: str) -> None:
    """Forget the revisions of a function that is gone, with the environments in them, once it has no task left."""
    db.execute(
        "DELETE FROM revision WHERE function = :id"
        " AND NOT EXISTS (SELECT 1 FROM function WHERE id = :id)"
        " AND NOT EXISTS (SELECT 1 FROM task WHERE function = :id)",
        {"id": function_id},
    )


def _refuse_taken_name(db: sqlite3.Connection, function: Function) -> None:
    row = db.execute(
        "SELECT 1 FROM function WHERE account = ? AND name = ? AND id <> ?",
        (function.account, function.name, function.id),
    ).fetchone()
    if row is not None:
        raise NameTaken(function.name)


# nodes

_NODES = f"SELECT {rows.NODE} FROM node"  # noqa: S608 - constants


def join_node(
    db: sqlite3.Connection, node_id: str, account: str, description: str, credential_hash: bytes, *, now_ms: int
) -> None:
    """See `Store.join_node`."""
    row = db.execute("SELECT account, disabled FROM node WHERE id = ?", (node_id,)).fetchone()
    if row is not None:
        owner, disabled = row
        if owner != account:
            raise NodeTaken(node_id)
        if disabled:
            raise NodeDisabled(node_id)
    db.execute(
        "INSERT INTO node (id, account, description, joined_ms, credential_hash) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET description = excluded.description, joined_ms = excluded.joined_ms,"
        " credential_hash = excluded.credential_hash",
        (node_id, account, description, now_ms, credential_hash),
    )


def node_of_credential(db: sqlite3.Connection, node_id: str, credential_hash: bytes) -> Node | None:
    """See `Store.node_of_credential`."""
    row = db.execute(f"SELECT credential_hash, {rows.NODE} FROM node WHERE id = ?", (node_id,)).fetchone()  # noqa: S608
    if row is None or not hmac.compare_digest(row[0], credential_hash):
        return None
    return rows.node(row[1:])


def node(db: sqlite3.Connection, account: str, node_id: str) -> Node | None:
    """See `Store.node`."""
    row = db.execute(f"{_NODES} WHERE id = ? AND account = ?", (node_id, account)).fetchone()
    return None if row is None else rows.node(row)


def nodes(db: sqlite3.Connection, account: str, limit: int, after: str | None) -> list[Node]:
    """See `Store.nodes`."""
    found = db.execute(
        f"{_NODES} WHERE account = ? AND id > coalesce(?, '') ORDER BY id LIMIT ?", (account, after, limit)
    )
    return [rows.node(row) for row in found]


def set_node_disabled(db: sqlite3.Connection, account: str, node_id: str, disabled: bool) -> bool:
    """See `Store.set_node_disabled`."""
    changed = db.execute("UPDATE node SET disabled = ? WHERE id = ? AND account = ?", (disabled, node_id, account))
    return changed.rowcount == 1


def node_seen(db: sqlite3.Connection, node_id: str, seen_ms: int, version: str, capabilities_json: bytes) -> bool:
    """See `Store.node_seen`."""
    seen = db.execute(
        "UPDATE node SET seen_ms = ?, version = ?, capabilities = ? WHERE id = ? AND NOT disabled",
        (seen_ms, version, capabilities_json, node_id),
    )
    return seen.rowcount == 1
