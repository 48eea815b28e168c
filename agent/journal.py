"""What the node has promised: leases that it accepted, and outcomes that nobody acknowledged yet.

What the file on disk should hold is also known here, without the inputs: a write that fails, because
the disk is full or the file is damaged, is done again as soon as that is possible.

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
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

from agent.config import JournalConfig
from agent.journal_file import JournalFile, Key, Row
from agent.journal_writer import JournalError, JournalUnavailable, JournalWriter
from agent.protocol import Lease, Offer, Outcome

__all__ = ["Journal", "JournalError", "JournalUnavailable", "Kept"]

MIB = 1024 * 1024

ROWS_LIMIT = 64 * MIB
"""Bytes of leases and outcomes themselves, which are in memory too; large bodies are not counted here."""

DISK_RESERVE = 16 * MIB
"""Bytes that are left on the disk for what was accepted already."""

AGE_SECONDS = 60.0
"""Between two times that the ages are written: so much of them a crash takes."""

T = TypeVar("T")


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
        body: Name of the file that the outcome's body is in.
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
        self._writer = JournalWriter(JournalFile(directory / "journal.sqlite", busy_seconds, wall), self._owe_all)
        self._monotonic = monotonic
        self._failure = ""
        self._disk_free = DISK_RESERVE
        self._entries: dict[Lease, _Entry] = {}
        self._rows = self._files = 0
        self._owed: set[Lease] = set()
        """Leases of which the file does not hold what it should."""
        self._aged = monotonic()
        self._log = structlog.get_logger()

    async def open(self) -> list[Kept]:
        """Open or make the journal, and give what is left in it.

        Raises:
            JournalUnavailable: It cannot be used now.
            JournalError: It cannot be used.
        """
        try:
            await asyncio.to_thread(self.bodies.mkdir, mode=0o700, exist_ok=True)
        except OSError as error:
            raise JournalUnavailable(f"{self.bodies} cannot be used: {error.strerror}") from None
        kept = [self._take_up(row) for row in await self._writer.open()]
        for file in await self.strays(lambda _: False):
            await asyncio.to_thread(file.unlink)
        self._aged = self._monotonic()
        await self.look()
        return kept

    async def close(self) -> None:
        """Write what waits, and let go of the file."""
        if self._owed:
            await self.look()
        if self._entries and not self._failure:
            try:
                await self._grow_older()
            except JournalError as error:
                self._log.warning("ages not written", problem=str(error))
        await self._writer.close()

    # What is in it

    @property
    def obstacle(self) -> str:
        """Why no new lease can be taken, for people; empty if one can."""
        if self._failure:
            return self._failure
        if self._disk_free < DISK_RESERVE:
            return f"journal full: its disk has {self._disk_free // MIB} MiB left"
        if self.bytes >= self.config.max_bytes or self._rows >= ROWS_LIMIT:
            return f"journal full: {self.count} attempts with {self.bytes / MIB:.1f} MiB are in it"
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
        """Say for how many seconds an outcome, or a lease without one, was here while the agent ran."""
        entry = self._entries.get(lease)
        return entry.age + self._monotonic() - entry.since if entry is not None else 0.0

    async def strays(self, is_used: Callable[[str], bool]) -> list[Path]:
        """List the files among the bodies that no attempt needs.

        Args:
            is_used: Says of a file's name whether something that runs writes or reads it.
        """
        files = await asyncio.to_thread(lambda: sorted(self.bodies.iterdir()))
        named = {entry.body for entry in self._entries.values()}
        return [file for file in files if file.name not in named and not is_used(file.name)]

    # Changes

    async def accept(self, offer: Offer) -> None:
        """Keep a lease with its offer, but without the input, which may be large and is in the dispatcher's hands.

        Raises:
            JournalError: It is not on disk, or there is no room for it and its input.
        """
        if obstacle := self.obstacle:
            raise JournalError(obstacle)
        files = offer.body_size if offer.body is None else 0
        if self.bytes + files > self.config.max_bytes:
            raise JournalError(f"journal full: there is no room for an input of {files / MIB:.1f} MiB")
        stripped = msgspec.structs.replace(offer, body=None)
        try:
            await self._keep(offer.lease, _Entry(stripped, None, None, 0, files, 0.0, self._monotonic()))
        except BaseException:
            self._drop(offer.lease)  # nobody relies on it; should it be on disk all the same, the next look removes it
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
        """Let go of a lease and its outcome. The body's file is the caller's to remove.

        Raises:
            JournalError: It is still on disk. It goes when that is possible.
        """
        self._drop(lease)
        self._owed.add(lease)
        await self._write(lease)

    async def look(self) -> None:
        """See how much room the disk has, do again what could not be done, write ages. To be called regularly."""
        try:
            self._disk_free = (await asyncio.to_thread(shutil.disk_usage, self.bodies)).free
            if self._failure:
                await self._write()
            # What is to be removed goes first, for it makes room.
            for lease in sorted(self._owed, key=self._entries.__contains__):
                await self._write(lease)
            if self._entries and self._monotonic() - self._aged >= AGE_SECONDS:
                await self._grow_older()
        except JournalError:
            pass  # `obstacle` says so
        except OSError as error:
            self._failure = f"the journal's disk cannot be used: {error.strerror}"
        self.changed.set()

    async def _keep(self, lease: Lease, entry: _Entry) -> None:
        self._drop(lease)
        row = self._row(lease, entry)
        self._put(lease, replace(entry, rows=len(row.offer or b"") + len(row.outcome or b"")))
        self._owed.add(lease)
        await self._write(lease, row)

    def _put(self, lease: Lease, entry: _Entry) -> None:
        self._entries[lease] = entry
        self._rows += entry.rows
        self._files += entry.files
        self.changed.set()

    def _drop(self, lease: Lease) -> None:
        entry = self._entries.pop(lease, None)
        if entry is not None:
            self._rows -= entry.rows
            self._files -= entry.files
            self.changed.set()

    async def _write(self, lease: Lease | None = None, row: Row | None = None) -> None:
        """Make the file hold what it should of a lease; without one, only find out whether it can be written."""
        changes: list[Row | Key] = []
        entry = self._entries.get(lease) if lease is not None else None
        if lease is not None and entry is not None:
            changes = [row or self._row(lease, entry)]
        elif lease is not None:
            changes = [_key(lease)]
        await self._commit(changes)
        if lease is not None and self._entries.get(lease) is entry:  # and not another one by now
            self._owed.discard(lease)

    async def _grow_older(self) -> None:
        now = self._monotonic()
        elapsed, self._aged = now - self._aged, now
        await self._commit([], older=elapsed)

    async def _commit(self, changes: Sequence[Row | Key], older: float = 0.0) -> None:
        before = self._failure
        try:
            await self._writer.write(changes, older)
        except JournalError as error:
            self._failure = str(error)
            raise
        else:
            self._failure = ""
        finally:
            if self._failure != before:
                self.changed.set()

    def _row(self, lease: Lease, entry: _Entry) -> Row:
        # All rows of the file have the age of one moment, which is added to; a younger one is below 0 then.
        return Row(
            _key(lease),
            msgspec.msgpack.encode(entry.offer) if entry.offer is not None else None,
            msgspec.msgpack.encode(entry.outcome) if entry.outcome is not None else None,
            entry.body,
            entry.age + self._aged - entry.since,
        )

    def _owe_all(self) -> None:
        self._owed.update(self._entries)
        self.changed.set()

    def _take_up(self, row: Row) -> Kept:
        lease = Lease(*row.key)
        offer, outcome = _decoded(row.offer, Offer), _decoded(row.outcome, Outcome)
        body = self.bodies / row.body if row.body is not None else None
        if row.outcome is not None and (outcome is None or not _has_body(outcome, body)):
            self._log.error("outcome in the journal cannot be used", task=lease.task, attempt=lease.attempt)
            outcome = body = None
        rows = len(row.offer or b"") + len(row.outcome or b"")
        files = outcome.body_size if outcome is not None and body is not None else 0
        name = row.body if body is not None else None
        self._put(lease, _Entry(offer, outcome, name, rows, files, row.age, self._monotonic()))
        return Kept(lease, offer, outcome, body)


def _decoded(content: bytes | None, kind: type[T]) -> T | None:
    if content is None:
        return None
    try:
        return msgspec.msgpack.decode(content, type=kind)
    except (msgspec.MsgspecError, ValueError):
        return None


def _has_body(outcome: Outcome, body: Path | None) -> bool:
    if body is None:
        return outcome.body is not None
    try:
        return body.stat().st_size == outcome.body_size
    except OSError:
        return False


def _key(lease: Lease) -> Key:
    return Key(lease.task, lease.attempt, lease.token)
