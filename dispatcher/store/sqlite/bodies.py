"""Large bodies in pieces. Statements of `SqliteStore`, run on its threads.

Each piece is a transaction of its own, so that a large body holds nobody up; a body has no size, and
cannot be seen, before its last piece is there.
"""

from __future__ import annotations

import sqlite3

from dispatcher.store.body_keys import task_of_result
from dispatcher.store.errors import BodyMissing
from dispatcher.store.records import Upload


def begin(db: sqlite3.Connection, key: str) -> int:
    """Begin a body; give the serial number by which its pieces name it."""
    row = db.execute("INSERT INTO body (key, task) VALUES (?, ?) RETURNING serial", (key, task_of_result(key)))
    return int(row.fetchone()[0])


def extend(db: sqlite3.Connection, serial: int, start: int, content: bytes) -> bool:
    """Keep the piece that begins at ``start``; False where the body has other than so many bytes by now."""
    extended = db.execute(
        "UPDATE body SET kept = kept + ? WHERE serial = ? AND kept = ? AND size IS NULL", (len(content), serial, start)
    )
    if extended.rowcount == 0:
        return False
    db.execute("INSERT INTO body_piece (body, start, content) VALUES (?, ?, ?)", (serial, start, content))
    return True


def complete(db: sqlite3.Connection, serial: int) -> None:
    """Let a body be seen, in place of what had its name before; but one that a task uses stays as it is."""
    row = db.execute("SELECT key FROM body WHERE serial = ? AND size IS NULL", (serial,)).fetchone()
    if row is None:
        return
    db.execute("DELETE FROM body WHERE key = ? AND size IS NOT NULL AND NOT used", row)
    kept = db.execute("UPDATE OR IGNORE body SET size = kept WHERE serial = ?", (serial,)).rowcount == 1
    if not kept:
        remove(db, serial)


def upload(db: sqlite3.Connection, key: str) -> Upload:
    """See `Store.upload`."""
    row = db.execute(
        "SELECT kept, size IS NOT NULL FROM body WHERE key = ? ORDER BY size IS NULL, serial DESC LIMIT 1", (key,)
    ).fetchone()
    return Upload(0, complete=False) if row is None else Upload(row[0], complete=bool(row[1]))


def begun(db: sqlite3.Connection, key: str) -> int:
    """Give the serial number of an upload that has begun, or begin it."""
    row = db.execute("SELECT max(serial) FROM body WHERE key = ? AND size IS NULL", (key,)).fetchone()
    return begin(db, key) if row[0] is None else int(row[0])


def drop_upload(db: sqlite3.Connection, key: str) -> None:
    """See `Store.drop_upload`."""
    db.execute("DELETE FROM body WHERE key = ? AND NOT used", (key,))


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


def find_begun(db: sqlite3.Connection, key: str) -> tuple[int, int]:
    """Give serial and bytes so far of an upload.

    Raises:
        BodyMissing: There is no such upload.
    """
    row: tuple[int, int] | None = db.execute(
        "SELECT serial, kept FROM body WHERE key = ? AND size IS NULL ORDER BY serial DESC LIMIT 1", (key,)
    ).fetchone()
    if row is None:
        raise BodyMissing(key)
    return row


def read(db: sqlite3.Connection, serial: int, start: int) -> bytes | None:
    """Give what a piece of a body holds from the byte ``start`` on; None where there is none, or none any more."""
    row = db.execute(
        "SELECT start, content FROM body_piece WHERE body = ? AND start <= ? ORDER BY start DESC LIMIT 1",
        (serial, start),
    ).fetchone()
    return None if row is None else bytes(row[1])[start - row[0] :]


def remove_leftovers(db: sqlite3.Connection) -> None:
    """Remove what a crash left: bodies that no task uses or may come to use.

    What a node has uploaded of a result waits here for the rest of it, and for its outcome, for as long as
    the task has not ended.
    """
    db.execute(
        "DELETE FROM body WHERE NOT used AND NOT EXISTS"
        " (SELECT 1 FROM task WHERE task.id = body.task AND task.finished_ms IS NULL)"
    )
