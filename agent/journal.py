"""What the node has promised: leases that it accepted, and outcomes that nobody acknowledged yet.

One writer thread. All writes that wait when the thread comes round go into one commit, so that a
burst costs little more than one write; `agent.journal_file` says what a commit survives. What the
file should hold is also known here, without the inputs: a write that fails, because the disk is full
or the file is damaged, is done again as soon as that is possible.

Bodies that are too large for a message lie as files beside the database. A row names one only when
it is complete, and what no row names is removed when the journal is opened.

The journal is bounded. Full, it takes no new lease, and nothing that it holds is dropped for it:
outcomes of what was accepted before are kept even beyond the bound. By age something is dropped only
after `JournalConfig.max_age`, by `agent.assignments`. Age is the time for which the agent has run
since, by the monotonic clock: neither a wall clock that jumps, nor a machine that was off or asleep
for a month, makes an outcome old before there was a chance to deliver it.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVarTuple

import msgspec
import structlog

from agent.config import JournalConfig
from agent.journal_file import JournalFile, Key, NewerVersion, Row, is_damage, is_full, is_passing
from agent.protocol import Lease, Offer, Outcome

MIB = 1024 * 1024

ROWS_LIMIT = 64 * MIB
"""Bytes of outcomes and leases themselves, which are in memory too; large bodies are not counted here."""

DISK_RESERVE = 16 * MIB
"""Bytes that are left on the disk for what was accepted already."""

AGE_SECONDS = 60.0
"""Between two times that the ages are written: what a crash takes of them."""

_WAITING = 10_000
"""Writes that may wait for the thread. There are a few for each task, and slots bound the tasks."""

_BATCH = 500
"""Writes in one commit."""

_Values = TypeVarTuple("_Values")


class JournalError(Exception):
    """The journal could not be opened or written; the text is a sentence for the operator."""


class JournalUnavailable(JournalError):
    """The same, and it may be possible later without anybody doing something: the disk is full, or busy."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An attempt as an earlier run of the agent left it.

    Attributes:
        offer: Without the input; None where it cannot be read any more.
        outcome: None where the work had not ended, or where what it left cannot be used.
        body_path: The outcome's body, where it is too large for a message.
    """

    lease: Lease
    offer: Offer | None
    outcome: Outcome | None
    body_path: Path | None


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the file should hold of an attempt.

    Attributes:
        rows, files: Bytes that it takes up.
        age: Seconds, at the moment ``since`` of the monotonic clock.
    """

    offer: Offer | None
    outcome: Outcome | None
    body: str | None
    rows: int
    files: int
    age: float
    since: float


@dataclass(frozen=True, slots=True)
class _Write:
    """Changes of the file, or seconds by which everything in it has grown older."""

    changes: list[Row | Key]
    older: float
    done: asyncio.Future[None]


class Journal:
    """The journal of one data directory.

    Args:
        directory: Must exist; ``journal.sqlite`` and ``bodies`` are made in it.
        config: How much it may hold.
        busy_seconds: A write waits so long for another process that reads or copies the database.
        wall: For the name of a file that is set aside; nothing is decided by it.
    """

    def __init__(
        self,
        directory: Path,
        config: JournalConfig | None = None,
        *,
        busy_seconds: float = 5.0,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config or JournalConfig()
        self.bodies = directory / "bodies"
        self.changed = asyncio.Event()
        """Set when `obstacle` may have changed."""
        self._file = JournalFile(directory / "journal.sqlite", busy_seconds, wall)
        self._monotonic = monotonic
        self._failure = ""
        self._disk_free = DISK_RESERVE
        self._entries: dict[Lease, _Entry] = {}
        self._owed: set[Lease] = set()
        """What the file does not hold as it should."""
        self._rows = self._files = 0
        self._aged = monotonic()
        self._queue: queue.Queue[_Write | None] = queue.Queue(_WAITING)
        self._thread: threading.Thread | None = None
        self._log = structlog.get_logger()

    async def open(self) -> list[Kept]:
        """Open or make the journal, and give what is left in it.

        Raises:
            JournalUnavailable: It cannot be used now.
            JournalError: It cannot be used.
        """
        opened: asyncio.Future[list[Row]] = asyncio.get_running_loop().create_future()
        thread = threading.Thread(
            target=self._work, args=(asyncio.get_running_loop(), opened), name="journal", daemon=True
        )
        thread.start()
        rows = await opened
        self._thread = thread
        kept = await asyncio.to_thread(self._take_up, rows)
        self._rows = sum(entry.rows for entry in self._entries.values())
        self._files = sum(entry.files for entry in self._entries.values())
        return kept

    async def close(self) -> None:
        """Write what waits, and let go of the file."""
        if self._thread is not None:
            if self._entries and not self._failure:
                await self._grow_older()
            thread, self._thread = self._thread, None
            await asyncio.to_thread(self._queue.put, None)
            await asyncio.to_thread(thread.join)

    # What is in it

    @property
    def obstacle(self) -> str:
        """Why no new lease can be taken, for people; empty if one can."""
        if self._failure:
            return self._failure
        if self._disk_free < DISK_RESERVE:
            return f"journal full: its disk has {self._disk_free // MIB} MiB left"
        if self.bytes >= self.config.max_bytes or self._rows >= ROWS_LIMIT:
            return f"journal full: {len(self._entries)} attempts with {self.bytes / MIB:.1f} MiB wait in it"
        return ""

    @property
    def count(self) -> int:
        """Attempts that it holds."""
        return len(self._entries)

    @property
    def bytes(self) -> int:
        """Bytes that it holds, with the large bodies."""
        return self._rows + self._files

    def age(self, lease: Lease) -> float:
        """Say for how many seconds an outcome, or a lease without one, is here while the agent runs."""
        entry = self._entries.get(lease)
        return entry.age + self._monotonic() - entry.since if entry is not None else 0.0

    async def accept(self, offer: Offer) -> None:
        """Keep a lease with its offer, but without the input, which may be large and is in the dispatcher's hands.

        Raises:
            JournalError: It is not on disk, or there is no room for it and its input.
        """
        stripped = msgspec.structs.replace(offer, body=None)
        files = offer.body_size if offer.body is None else 0
        entry = _Entry(stripped, None, None, 0, files, 0.0, self._monotonic())
        if obstacle := self.obstacle:
            raise JournalError(obstacle)
        if self.bytes + files > self.config.max_bytes:
            raise JournalError(f"journal full: there is no room for an input of {files / MIB:.1f} MiB")
        try:
            await self._keep(offer.lease, entry)
        except BaseException:
            # Nobody relies on it. Should it be on disk all the same, it goes with the next look.
            self._drop(offer.lease)
            self._owed.add(offer.lease)
            raise

    async def finish(self, outcome: Outcome, body_path: Path | None) -> None:
        """Keep an outcome until it is forgotten.

        Args:
            body_path: The outcome's body, where it is too large for a message: a complete file in `bodies`.

        Raises:
            JournalError: It is not on disk yet. It will be when that is possible, if nobody forgets it before.
        """
        before = self._entries.get(outcome.lease)
        offer = before.offer if before is not None else None
        body, files = (body_path.name, outcome.body_size) if body_path is not None else (None, 0)
        await self._keep(outcome.lease, _Entry(offer, outcome, body, 0, files, 0.0, self._monotonic()))

    async def forget(self, lease: Lease) -> None:
        """Let go of a lease, and of its outcome with the body.

        Raises:
            JournalError: The row is still there. It goes when that is possible.
        """
        entry = self._drop(lease)
        try:
            await self._write([Key(lease.task, lease.attempt, lease.token)])
        except BaseException:
            self._owed.add(lease)
            raise
        finally:
            if entry is not None and entry.body is not None:
                await asyncio.to_thread((self.bodies / entry.body).unlink, missing_ok=True)

    async def look(self) -> None:
        """See how much room the disk has, do again what could not be done, and write ages. To be called regularly."""
        try:
            free = await asyncio.to_thread(_room, self.bodies)
        except OSError as error:
            self._failure = f"the journal's disk cannot be used: {error.strerror}"
            return
        self._disk_free = free
        try:
            if self._failure:
                await self._write([])
            for lease in sorted(self._owed, key=lambda lease: lease in self._entries):  # what is to be removed first
                await self._write([self._change(lease)])
            if self._entries and self._monotonic() - self._aged >= AGE_SECONDS:
                await self._grow_older()
        except JournalError:
            return  # `obstacle` says so
        finally:
            self.changed.set()

    def strays(self, is_used: Callable[[str], bool]) -> list[Path]:
        """List the files among the bodies that no attempt needs: what a crash left half-written.

        Args:
            is_used: Says of a file's name whether something that runs writes or reads it.
        """
        named = {entry.body for entry in self._entries.values()}
        return [file for file in sorted(self.bodies.iterdir()) if file.name not in named and not is_used(file.name)]

    # Keeping the file and the entries the same

    async def _keep(self, lease: Lease, entry: _Entry) -> None:
        self._drop(lease)
        row = _row(lease, entry)
        size = len(row.offer or b"") + len(row.outcome or b"")
        self._entries[lease] = replace(entry, rows=size)
        self._rows += size
        self._files += entry.files
        try:
            await self._write([row])
        except BaseException:
            self._owed.add(lease)
            raise
        finally:
            self.changed.set()

    def _drop(self, lease: Lease) -> _Entry | None:
        entry = self._entries.pop(lease, None)
        if entry is not None:
            self._rows -= entry.rows
            self._files -= entry.files
            self.changed.set()
        return entry

    def _change(self, lease: Lease) -> Row | Key:
        entry = self._entries.get(lease)
        if entry is None:
            return Key(lease.task, lease.attempt, lease.token)
        return _row(lease, replace(entry, age=self.age(lease)))

    async def _grow_older(self) -> None:
        now = self._monotonic()
        elapsed, self._aged = now - self._aged, now
        await self._write([], older=elapsed)

    async def _write(self, changes: list[Row | Key], older: float = 0.0) -> None:
        if self._thread is None:
            raise JournalError("the journal is closed")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        before = self._failure
        try:
            try:
                self._queue.put_nowait(_Write(changes, older, done))
            except queue.Full:
                raise JournalError("the journal's disk does not keep up") from None
            await done
        except JournalError as error:
            self._failure = str(error)
            raise
        else:
            self._failure = ""
            self._owed.difference_update(Lease(*_key_of(change)) for change in changes)
        finally:
            if self._failure != before:
                self.changed.set()

    def _take_up(self, rows: Sequence[Row]) -> list[Kept]:
        """Make entries of what the file holds, and remove the files that none of them names."""
        kept = []
        for row in rows:
            lease = Lease(*row.key)
            offer, outcome = _decoded(row.offer, Offer), _decoded(row.outcome, Outcome)
            body = self.bodies / row.body if row.body is not None else None
            if row.outcome is not None and (outcome is None or not _is_whole(body, outcome)):
                self._log.error(
                    "outcome in the journal cannot be used, its task is given back",
                    task=lease.task,
                    attempt=lease.attempt,
                )
                outcome = body = None
            kept.append(Kept(lease, offer, outcome, body))
            size = len(row.offer or b"") + len(row.outcome or b"")
            files = outcome.body_size if outcome is not None and body is not None else 0
            name = body.name if body is not None else None
            self._entries[lease] = _Entry(offer, outcome, name, size, files, row.age, self._monotonic())
        for file in self.strays(lambda _: False):
            file.unlink()
        return kept

    # The writer thread

    def _work(self, loop: asyncio.AbstractEventLoop, opened: asyncio.Future[list[Row]]) -> None:
        try:
            self.bodies.mkdir(mode=0o700, exist_ok=True)
            rows = self._file.open()
        except (sqlite3.Error, OSError, NewerVersion) as error:
            _answer(loop, opened.set_exception, self._cannot_open(error))
            return
        _answer(loop, opened.set_result, rows)
        while batch := self._next_batch():
            _answer(loop, _settle, batch, self._commit(loop, batch))
        self._file.close()

    def _cannot_open(self, error: Exception) -> JournalError:
        text = f"{self._file.path} cannot be used: {error}"
        passing = isinstance(error, sqlite3.Error) and is_passing(error)
        if passing or (not isinstance(error, NewerVersion) and _room(self.bodies.parent) < MIB):
            return JournalUnavailable(text)
        return JournalError(text)

    def _commit(self, loop: asyncio.AbstractEventLoop, batch: Sequence[_Write]) -> JournalError | None:
        changes = [change for write in batch for change in write.changes]
        older = sum(write.older for write in batch)
        try:
            try:
                self._file.write(changes)
                if older:
                    self._file.grow_older(older)
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise
                self._file.renew(str(error))
                _answer(loop, self._owe_all)
                self._file.write(changes)
        except sqlite3.Error as error:
            if is_full(error):
                return JournalError("journal full: its disk has no room")
            return JournalError(f"the journal cannot be written: {error}")
        except (OSError, NewerVersion) as error:
            return JournalError(f"the journal cannot be written: {error}")
        return None

    def _owe_all(self) -> None:
        self._owed.update(self._entries)

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


def _row(lease: Lease, entry: _Entry) -> Row:
    return Row(
        Key(lease.task, lease.attempt, lease.token),
        msgspec.msgpack.encode(entry.offer) if entry.offer is not None else None,
        msgspec.msgpack.encode(entry.outcome) if entry.outcome is not None else None,
        entry.body,
        entry.age,
    )
