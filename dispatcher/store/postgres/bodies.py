"""Large bodies in pieces.

Each piece is a transaction of its own, so that a large body holds nobody up; a body has no size, and
cannot be seen, before its last piece is there.
"""

from __future__ import annotations

from dispatcher.store.body_keys import task_of_result
from dispatcher.store.errors import BodyMissing
from dispatcher.store.postgres.connections import Db
from dispatcher.store.records import Upload


async def begin(db: Db, key: str, replica: str) -> int:
    """Begin a body; give the serial number by which its pieces name it."""
    serial: int = await db.fetchval(
        "INSERT INTO body (key, task, replica) VALUES ($1, $2, $3) RETURNING serial", key, task_of_result(key), replica
    )
    return serial


async def extend(db: Db, serial: int, start: int, content: bytes) -> bool:
    """Keep the piece that begins at ``start``; False where the body has other than so many bytes by now."""
    kept = await db.fetchval(
        "UPDATE body SET kept = kept + $1 WHERE serial = $2 AND kept = $3 AND size IS NULL RETURNING kept",
        *(len(content), serial, start),
    )
    if kept is None:
        return False
    await db.execute("INSERT INTO body_piece (body, start, content) VALUES ($1, $2, $3)", serial, start, content)
    return True


async def complete(db: Db, serial: int) -> None:
    """Let a body be seen, in place of what had its name before; but one that a task uses stays as it is."""
    key = await db.fetchval("SELECT key FROM body WHERE serial = $1 AND size IS NULL FOR UPDATE", serial)
    if key is None:
        return
    await db.execute("DELETE FROM body WHERE key = $1 AND size IS NOT NULL AND NOT used", key)
    kept = await db.fetchval(
        "UPDATE body SET size = kept WHERE serial = $1"
        " AND NOT EXISTS (SELECT 1 FROM body b WHERE b.key = $2 AND b.size IS NOT NULL) RETURNING serial",
        *(serial, key),
    )
    if kept is None:
        await remove(db, serial)


async def upload(db: Db, key: str) -> Upload:
    """See `Store.upload`."""
    row = await db.fetchrow(
        "SELECT kept, size IS NOT NULL FROM body WHERE key = $1 ORDER BY size IS NULL, serial DESC LIMIT 1", key
    )
    return Upload(0, complete=False) if row is None else Upload(row[0], complete=row[1])


async def begun(db: Db, key: str, replica: str) -> int:
    """Give the serial number of an upload that has begun, or begin it."""
    serial: int | None = await db.fetchval("SELECT max(serial) FROM body WHERE key = $1 AND size IS NULL", key)
    return await begin(db, key, replica) if serial is None else serial


async def drop_upload(db: Db, key: str) -> None:
    """See `Store.drop_upload`."""
    await db.execute("DELETE FROM body WHERE key = $1 AND NOT used", key)


async def remove(db: Db, serial: int) -> None:
    """Remove a body with its pieces, complete or not."""
    await db.execute("DELETE FROM body WHERE serial = $1", serial)


async def find(db: Db, key: str) -> tuple[int, int]:
    """Give serial and size of a body.

    Raises:
        BodyMissing: There is no such body.
    """
    row = await db.fetchrow("SELECT serial, size FROM body WHERE key = $1 AND size IS NOT NULL", key)
    if row is None:
        raise BodyMissing(key)
    return row[0], row[1]


async def find_begun(db: Db, key: str) -> tuple[int, int]:
    """Give serial and bytes so far of an upload.

    Raises:
        BodyMissing: There is no such upload.
    """
    row = await db.fetchrow(
        "SELECT serial, kept FROM body WHERE key = $1 AND size IS NULL ORDER BY serial DESC LIMIT 1", key
    )
    if row is None:
        raise BodyMissing(key)
    return row[0], row[1]


async def read(db: Db, serial: int, start: int) -> bytes | None:
    """Give what a piece of a body holds from the byte ``start`` on; None where there is none, or none any more."""
    row = await db.fetchrow(
        "SELECT start, content FROM body_piece WHERE body = $1 AND start <= $2 ORDER BY start DESC LIMIT 1",
        *(serial, start),
    )
    return None if row is None else bytes(row[1])[start - row[0] :]


async def remove_leftovers(db: Db) -> None:
    """Remove what dispatchers left that are no more: bodies that no task uses or may come to use.

    What a node has uploaded of a result waits here for the rest of it, and for its outcome, for as long as
    the task has not ended.
    """
    await db.execute(
        "DELETE FROM body WHERE NOT used AND NOT EXISTS (SELECT 1 FROM replica WHERE replica.id = body.replica)"
        " AND NOT EXISTS (SELECT 1 FROM task WHERE task.id = body.task AND task.finished_ms IS NULL)"
    )
