"""The database file: made, locked, opened, and brought up to date."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from importlib.resources import files
from pathlib import Path
from typing import Literal, NamedTuple

from dispatcher.store.errors import StoreUnavailable

READERS = 2
"""Connections that read."""

BUSY_SECONDS = 2.0
"""How long a call waits for a lock of another program, such as a backup, before it fails."""

MIGRATIONS = files("dispatcher.store") / "migrations" / "sqlite"
"""Files ``<number>_<name>.sql``; a file that was released is never changed."""


class Opened(NamedTuple):
    """An open database. Each connection is used by one thread at a time."""

    lock: int
    writer: sqlite3.Connection
    readers: list[sqlite3.Connection]


def open_file(path: Path, synchronous: Literal["full", "normal"]) -> Opened:
    """Open a database, alone, and bring it up to date.

    Raises:
        StoreUnavailable: It cannot be opened, is in use, or was made by a newer version.
    """
    connections: list[sqlite3.Connection] = []
    try:
        lock = _lock(path)
    except OSError as error:
        raise StoreUnavailable(f"cannot open the database {path}: {error.strerror}") from error
    try:
        # SQLite gives the files that it makes beside the database the mode of the database.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        path.chmod(0o600)
        writer = _connect(path, connections)
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute(f"PRAGMA synchronous = {synchronous}")
        writer.execute("PRAGMA foreign_keys = ON")
        # A transaction that was large once does not leave a large file behind.
        writer.execute(f"PRAGMA journal_size_limit = {64 * 1024 * 1024}")
        _migrate(writer)
        readers = [_connect(path, connections) for _ in range(READERS)]
        for reader in readers:
            reader.execute("PRAGMA query_only = ON")
    except (sqlite3.Error, OSError) as error:
        raise StoreUnavailable(f"cannot open the database {path}: {error}") from error
    finally:
        if len(connections) <= READERS:
            for connection in connections:
                connection.close()
            os.close(lock)
    return Opened(lock, writer, readers)


def check_readable(db: sqlite3.Connection) -> None:
    """Return if the database can be read and has had every migration.

    Raises:
        StoreUnavailable: A migration is missing.
    """
    applied = {number for (number,) in db.execute("SELECT number FROM migration")}
    if not applied.issuperset(number for number, _, _ in _migrations()):
        raise StoreUnavailable("migrations are missing")


def check_writable(db: sqlite3.Connection) -> None:
    """Return if the database can be written, by writing what is there already."""
    db.execute("UPDATE migration SET name = name")


def _lock(path: Path) -> int:
    # A file of its own: closing any descriptor of the database would drop SQLite's own locks on it.
    lock = os.open(path.with_name(f"{path.name}-lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise StoreUnavailable(f"the database {path} is in use by another dispatcher") from None
    return lock


def _connect(path: Path, connections: list[sqlite3.Connection]) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    connections.append(db)
    return db


def _migrations() -> list[tuple[int, str, str]]:
    found = []
    for file in MIGRATIONS.iterdir():
        number, _, name = file.name.removesuffix(".sql").partition("_")
        found.append((int(number), name, file.read_text("utf-8")))
    return sorted(found)


def _migrate(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE IF NOT EXISTS migration (number INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT")
    applied = {number for (number,) in db.execute("SELECT number FROM migration")}
    migrations = _migrations()
    if applied - {number for number, _, _ in migrations}:
        raise StoreUnavailable("the database was made by a newer version of fernd")
    for number, name, script in migrations:
        if number in applied:
            continue
        try:
            db.executescript(f"BEGIN IMMEDIATE;\n{script}")
            db.execute("INSERT INTO migration (number, name) VALUES (?, ?)", (number, name))
            db.execute("COMMIT")
        except sqlite3.Error as error:
            raise StoreUnavailable(f"migration {number} ({name}) failed: {error}") from error
