"""The file of the journal: SQLite in WAL mode, used by one thread.

``synchronous = NORMAL``: a commit survives the crash of this process and an orderly reboot, but is
not synced to the medium each time, which would cost a slow card 10 ms and more for every task. A
power cut may take the last moments. What is lost then is time, not truth: the dispatcher misses the
lease in the next hello, and runs the attempt again under a new one, or ends it if it must not.

A file that is damaged is set aside under another name, for people to look at, and a new one made.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import structlog

log = structlog.get_logger()

_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS attempt (
    task TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    token BLOB NOT NULL,
    offer BLOB,
    outcome BLOB,
    body TEXT,
    age REAL NOT NULL,
    PRIMARY KEY (task, attempt, token)
) WITHOUT ROWID
"""

_WAL_KEPT = 4 * 1024 * 1024
"""Bytes that the WAL is cut to after a checkpoint: a burst does not keep its room for ever."""

SET_ASIDE_KEPT = 3
"""Damaged journals that are kept: the newest. A card that fails must not fill itself with them."""

_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_PASSING = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL}
)


class NewerVersion(Exception):
    """The file was written by a newer version of fernd."""


class Key(NamedTuple):
    """What a row is found by: a lease."""

    task: str
    attempt: int
    token: bytes


class Row(NamedTuple):
    """An attempt on disk.

    Attributes:
        offer: None where the row was written after the one with the offer was lost.
        body: Name of the file that the outcome's body is in.
        age: Seconds, as of the last `JournalFile.grow_older`.
    """

    key: Key
    offer: bytes | None
    outcome: bytes | None
    body: str | None
    age: float


class JournalFile:
    """One SQLite file with a row for each attempt.

    Args:
        busy_seconds: A write waits so long for another process that reads or copies the file.
        wall: For the name of a file that is set aside; nothing is decided by it.
    """

    def __init__(self, path: Path, busy_seconds: float, wall: Callable[[], float] = time.time) -> None:
        self.path = path
        self._busy_seconds = busy_seconds
        self._wall = wall
        self._database: sqlite3.Connection | None = None

    def open(self) -> list[Row]:
        """Open or make the file and read it; a damaged one is set aside.

        Raises:
            NewerVersion: It is left alone.
            sqlite3.Error: It cannot be used.
            OSError: It cannot be used.
        """
        try:
            return self._open()
        except sqlite3.DatabaseError as error:
            # A table that is not as it was made is damage too, and shows as a statement that cannot be prepared.
            if not is_damage(error) and _code(error) != sqlite3.SQLITE_ERROR:
                raise
            self._set_aside(str(error))
            return self._open()

    def renew(self, reason: str) -> None:
        """Set the file aside, and go on with a new one.

        Raises:
            sqlite3.Error: There is no new one.
            OSError: There is no new one.
        """
        self._set_aside(reason)
        self._open()

    def write(self, changes: Sequence[Row | Key]) -> None:
        """Write rows, and remove those of which only the key is given, all or none.

        Raises:
            sqlite3.Error: Nothing is changed.
        """
        if self._database is None:  # it could not be renewed
            self._open()
        database = self._connection
        try:
            database.execute("BEGIN IMMEDIATE")
            for change in changes:
                if isinstance(change, Row):
                    values = (*change.key, *change[1:])
                    database.execute("INSERT OR REPLACE INTO attempt VALUES (?, ?, ?, ?, ?, ?, ?)", values)
                else:
                    database.execute("DELETE FROM attempt WHERE task = ? AND attempt = ? AND token = ?", change)
            if not changes:  # a probe, which writes all the same
                database.execute(f"PRAGMA user_version = {_VERSION}")
            database.execute("COMMIT")
        except sqlite3.Error:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise

    def grow_older(self, seconds: float) -> None:
        """Add to the age of all rows.

        Raises:
            sqlite3.Error: They are as they were.
        """
        self._connection.execute("UPDATE attempt SET age = age + ?", (seconds,))

    def close(self) -> None:
        """Let go of the file."""
        database, self._database = self._database, None
        if database is not None:
            database.close()

    @property
    def _connection(self) -> sqlite3.Connection:
        assert self._database is not None  # noqa: S101 - used between `open` and `close`
        return self._database

    def _open(self) -> list[Row]:
        database = sqlite3.connect(self.path, timeout=self._busy_seconds, isolation_level=None)
        try:
            self.path.chmod(0o600)
            _prepare(database)
            rows = database.execute("SELECT task, attempt, token, offer, outcome, body, age FROM attempt").fetchall()
        except BaseException:
            database.close()
            raise
        self._database = database
        return [Row(Key(*row[:3]), *row[3:]) for row in rows]

    def _set_aside(self, reason: str) -> None:
        self.close()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._wall()))
        kept = self.path.with_name(f"{self.path.name}.damaged-{stamp}")
        for suffix in ("", "-wal", "-shm"):
            file = self.path.with_name(self.path.name + suffix)
            if file.exists():
                file.rename(kept.with_name(kept.name + suffix))
        log.error(
            "journal damaged: it is set aside, and a new one begun; what it held is lost to this node",
            reason=reason,
            set_aside=kept.name,
        )
        older = sorted(self.path.parent.glob(f"{self.path.name}.damaged-*Z"), key=lambda file: file.stat().st_mtime)
        for file in older[:-SET_ASIDE_KEPT]:
            for suffix in ("", "-wal", "-shm"):
                file.with_name(file.name + suffix).unlink(missing_ok=True)


def _prepare(database: sqlite3.Connection) -> None:
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    database.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT}")
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version > _VERSION:
        raise NewerVersion("it was written by a newer version of fernd")
    database.execute(_SCHEMA)
    database.execute(f"PRAGMA user_version = {_VERSION}")


def is_damage(error: sqlite3.Error) -> bool:
    """Say whether the file is not what SQLite wrote."""
    return _code(error) in _DAMAGE


def is_passing(error: sqlite3.Error) -> bool:
    """Say whether the file may be usable later without anybody doing something about it."""
    return _code(error) in _PASSING


def is_full(error: sqlite3.Error) -> bool:
    """Say whether the disk has no room."""
    return _code(error) == sqlite3.SQLITE_FULL


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
