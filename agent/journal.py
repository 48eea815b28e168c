"""What the node has promised: leases that it accepted, and outcomes that nobody acknowledged yet.

SQLite in WAL mode on one writer thread. All writes that wait when the thread comes round go into one
commit, so that a burst costs little more than one write.

``synchronous = NORMAL``: a commit survives the crash of this process and an orderly reboot, but is
not synced to the medium each time, which would cost a slow card 10 ms and more for every task. A
power cut may take the last moments. What is lost then is time, not truth: the dispatcher misses the
lease in the next hello, and runs the attempt again under a new one, or ends it if it must not.

Bodies that are too large for a message lie as files beside the database. A row names one only when
it is complete, and what no row names is removed when the journal is opened.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVarTuple

import msgspec

from agent.protocol import Lease, Offer, Outcome

_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS attempt (
    task TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    token BLOB NOT NULL,
    offer BLOB NOT NULL,
    outcome BLOB,
    body TEXT,
    PRIMARY KEY (task, attempt, token)
) WITHOUT ROWID
"""

_WAITING = 10_000
"""Writes that may wait for the thread. There are a few for each task, and slots bound the tasks."""

_BATCH = 500
"""Writes in one commit."""

_Values = TypeVarTuple("_Values")


class JournalError(Exception):
    """The journal could not be opened or written; the text is a sentence for the operator."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An attempt as an earlier run of the agent left it.

    Attributes:
        outcome: None where the work had not ended.
        body_path: The outcome's body, where it is too large for a message.
    """

    lease: Lease
    outcome: Outcome | None
    body_path: Path | None


@dataclass(frozen=True, slots=True)
class _Write:
    apply: Callable[[sqlite3.Connection], object]
    done: asyncio.Future[None]


class Journal:
    """The journal of one data directory.

    Args:
        directory: Must exist; ``journal.sqlite`` and ``bodies`` are made in it.
        busy_seconds: A write waits so long for another process that reads or copies the database.
    """

    def __init__(self, directory: Path, busy_seconds: float = 5.0) -> None:
        self.bodies = directory / "bodies"
        self.failure = ""
        """Why the last write failed; empty if it did not."""
        self._file = directory / "journal.sqlite"
        self._busy_seconds = busy_seconds
        self._queue: queue.Queue[_Write | None] = queue.Queue(_WAITING)
        self._thread: threading.Thread | None = None

    async def open(self) -> list[Kept]:
        """Open or make the journal, and give what is left in it.

        Raises:
            JournalError: It cannot be used.
        """
        opened: asyncio.Future[list[Kept]] = asyncio.get_running_loop().create_future()
        thread = threading.Thread(
            target=self._work, args=(asyncio.get_running_loop(), opened), name="journal", daemon=True
        )
        thread.start()
        kept = await opened
        self._thread = thread
        return kept

    async def close(self) -> None:
        """Write what waits, and let go of the file."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.to_thread(self._queue.put, None)
            await asyncio.to_thread(thread.join)

    async def accept(self, offer: Offer) -> None:
        """Keep a lease with its offer, but without the input, which may be large and is in the dispatcher's hands.

        Raises:
            JournalError: It is not on disk.
        """
        row = (*_key(offer.lease), msgspec.msgpack.encode(msgspec.structs.replace(offer, body=None)))
        statement = "INSERT OR REPLACE INTO attempt (task, attempt, token, offer) VALUES (?, ?, ?, ?)"
        await self._write(lambda database: database.execute(statement, row))

    async def finish(self, outcome: Outcome, body_path: Path | None) -> None:
        """Keep an outcome until it is forgotten.

        Args:
            body_path: The outcome's body, where it is too large for a message: a complete file in `bodies`.

        Raises:
            JournalError: It is not on disk.
        """
        row = (msgspec.msgpack.encode(outcome), body_path.name if body_path else None, *_key(outcome.lease))
        statement = "UPDATE attempt SET outcome = ?, body = ? WHERE task = ? AND attempt = ? AND token = ?"
        await self._write(lambda database: database.execute(statement, row))

    async def forget(self, lease: Lease) -> None:
        """Remove the row of a lease.

        Raises:
            JournalError: It is still there.
        """
        statement = "DELETE FROM attempt WHERE task = ? AND attempt = ? AND token = ?"
        await self._write(lambda database: database.execute(statement, _key(lease)))

    async def probe(self) -> None:
        """Write something that changes nothing.

        Raises:
            JournalError: The journal cannot be written.
        """
        await self._write(lambda database: database.execute(f"PRAGMA user_version = {_VERSION}"))

    async def _write(self, apply: Callable[[sqlite3.Connection], object]) -> None:
        if self._thread is None:
            raise JournalError("the journal is closed")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait(_Write(apply, done))
        except queue.Full:
            self.failure = "the journal's disk does not keep up"
            raise JournalError(self.failure) from None
        try:
            await done
        except JournalError as error:
            self.failure = str(error)
            raise
        self.failure = ""

    # The writer thread ----------------------------------------------------------------------------

    def _work(self, loop: asyncio.AbstractEventLoop, opened: asyncio.Future[list[Kept]]) -> None:
        try:
            database = self._open()
            kept = self._read(database)
        except (sqlite3.Error, OSError, msgspec.MsgspecError) as error:
            _answer(loop, opened.set_exception, JournalError(f"{self._file} cannot be used: {error}"))
            return
        _answer(loop, opened.set_result, kept)
        while batch := self._next_batch():
            _answer(loop, _settle, batch, _commit(database, batch))
        database.close()

    def _open(self) -> sqlite3.Connection:
        self.bodies.mkdir(mode=0o700, exist_ok=True)
        database = sqlite3.connect(self._file, timeout=self._busy_seconds, isolation_level=None)
        self._file.chmod(0o600)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise sqlite3.DatabaseError("it was written by a newer version of fernd")
        database.execute(_SCHEMA)
        database.execute(f"PRAGMA user_version = {_VERSION}")
        return database

    def _read(self, database: sqlite3.Connection) -> list[Kept]:
        rows = database.execute("SELECT task, attempt, token, outcome, body FROM attempt").fetchall()
        kept = [
            Kept(
                Lease(task, attempt, token),
                msgspec.msgpack.decode(outcome, type=Outcome) if outcome is not None else None,
                self.bodies / body if body is not None else None,
            )
            for task, attempt, token, outcome, body in rows
        ]
        named = {attempt.body_path for attempt in kept}
        for file in self.bodies.iterdir():
            if file not in named:
                file.unlink()
        return kept

    def _next_batch(self) -> list[_Write]:
        """Wait for a write and take all that wait; an empty batch is the end."""
        batch: list[_Write] = []
        write = self._queue.get()
        while write is not None:
            batch.append(write)
            if len(batch) == _BATCH:
                return batch
            try:
                write = self._queue.get_nowait()
            except queue.Empty:
                return batch
        if batch:
            self._queue.put(None)  # the end comes after this batch
        return batch


def _commit(database: sqlite3.Connection, batch: Sequence[_Write]) -> JournalError | None:
    try:
        database.execute("BEGIN IMMEDIATE")
        for write in batch:
            write.apply(database)
        database.execute("COMMIT")
    except sqlite3.Error as error:
        if database.in_transaction:
            database.execute("ROLLBACK")
        return JournalError(f"the journal cannot be written: {error}")
    return None


def _settle(batch: Sequence[_Write], problem: JournalError | None) -> None:
    for write in batch:
        if write.done.done():  # whoever waited was cancelled
            continue
        if problem is None:
            write.done.set_result(None)
        else:
            write.done.set_exception(problem)


def _answer(loop: asyncio.AbstractEventLoop, call: Callable[[*_Values], object], *values: *_Values) -> None:
    """Call something on the event loop, if it still runs: a process that ends waits for no answer."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(call, *values)


def _key(lease: Lease) -> tuple[str, int, bytes]:
    return lease.task, lease.attempt, lease.token
