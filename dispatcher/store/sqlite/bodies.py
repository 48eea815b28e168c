"""Large bodies in pieces. Statements of `SqliteStore`, run on its threads.

Each piece is a transaction of its own, so that a large body holds nobody up; a body has no size, and
cannot be seen, before its last piece is there.
"""

from __future__ import annotations

import sqlite3

from dispatcher.store.base import BodyMissing, task_of_result


def begin(db: sqlite3.Connection, key: str) -> int:
    """Begin a body; give the serial number by which its pieces name it."""
    row = db.execute("INSERT INTO body (key, task) VALUES (?, ?) RETURNING serial", (key, task_of_result(key)))
    return int(row.fetchone()[0])


def add_piece(db: sqlite3.Connection, serial: int, number: int, content: bytes) -> None:
    """Keep a piece; the first has number 0."""
    db.execute("INSERT INTO body_piece (body, number, content) VALUES (?, ?, ?)", (serial, number, content))


def complete(db: sqlite3.Connection, serial: int, size: int) -> None:
    """Let a body be seen, in place of what had its name before; but one that a task uses stays as it is."""
    (key,) = db.execute("SELECT key FROM body WHERE serial = ?", (serial,)).fetchone()
    db.execute("DELETE FROM body WHERE key = ? AND size IS NOT NULL AND NOT used", (key,))
    kept = db.execute("UPDATE OR IGNORE body SET size = ? WHERE serial = ?", (size, serial)).rowcount == 1
    if not kept:
        remove(db, serial)


def remove(db: sqlite3.Connection, serial: int) -> None:
    """Remove a body with its pieces, complete or not."""
    db.execute("DELETE FROM body WHERE serial = ?", (serial,))


def find(db: sqlite3.Connection, key: str) -> tuple[int, int]:
    """Give serial and size of a body.

    Raises:
        BodyMissing: There is no such body.
    """
    row: tuple[int, int] | None = db.execute(
        "SELECT serial, size FROM body WHERE key = ? AND size IS NOT NULL", (key,)
    ).fetchone()
    if row is None:
        raise BodyMissing(key)
    return row


def piece(db: sqlite3.Connection, serial: int, number: int) -> bytes | None:
    """Give a piece of a body; None where there is none, or none any more."""
    row = db.execute("SELECT content FROM body_piece WHERE body = ? AND number = ?", (serial, number)).fetchone()
    return None if row is None else bytes(row[0])


def remove_leftovers(db: sqlite3.Connection) -> None:
    """Remove what a crash left: bodies cut short, and whole ones that no task uses or may come to use.

    A result that a node has uploaded waits here for its outcome, for as long as the task has not ended.
    """
    db.execute(
        "DELETE FROM body WHERE size IS NULL OR NOT used AND NOT EXISTS"
        " (SELECT 1 FROM task WHERE task.id = body.task AND task.finished_ms IS NULL)"
    )
