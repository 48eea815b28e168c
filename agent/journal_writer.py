"""The one thread that uses the journal's file: what waits when it comes round goes into one commit."""

from __future__ import annotations

import asyncio
import queue
import shutil
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVarTuple

from agent.journal_file import JournalFile, Key, NewerVersion, Row, is_damage, is_full, is_passing

WAITING = 10_000
"""Writes that may wait for the thread. There are a few for each task, and slots bound the tasks."""

BATCH = 500
"""Writes in one commit."""

_ALMOST_NOTHING = 1024 * 1024
"""Bytes: with less on the disk, whatever goes wrong is put down to that."""

_Values = TypeVarTuple("_Values")


class JournalError(Exception):
    """The journal could not be opened or written; the text is a sentence for the operator."""


class JournalUnavailable(JournalError):
    """The same, and it may be possible later without anybody doing something: the disk is full, or busy."""


@dataclass(frozen=True, slots=True)
class _Write:
    """Changes of the file, and seconds by which all in it has grown older."""

    changes: Sequence[Row | Key]
    older: float
    done: asyncio.Future[None]


class JournalWriter:
    """Writes to the file from the event loop.

    Args:
        renewed: Called when the file is damaged: the new one that is made holds nothing of before.
    """

    def __init__(self, file: JournalFile, renewed: Callable[[], None]) -> None:
        self._file = file
        self._renewed = renewed
        self._queue: queue.Queue[_Write | None] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None

    async def open(self) -> list[Row]:
        """Start the thread, and give what is in the file.

        Raises:
            JournalUnavailable: The file cannot be used now.
            JournalError: It cannot be used.
        """
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[list[Row]] = loop.create_future()
        thread = threading.Thread(target=self._work, args=(loop, opened), name="journal", daemon=True)
        thread.start()
        rows = await opened
        self._thread = thread
        return rows

    async def close(self) -> None:
        """Write what waits, and let go of the file."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.to_thread(self._queue.put, None)
            await asyncio.to_thread(thread.join)

    async def write(self, changes: Sequence[Row | Key], older: float = 0.0) -> None:
        """Write rows, remove those of which only the key is given, and make all so many seconds older.

        No changes at all are a probe: something is written that changes nothing.

        Raises:
            JournalError: It is not on disk.
        """
        if self._thread is None:
            raise JournalError("the journal is closed")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait(_Write(changes, older, done))
        except queue.Full:
            raise JournalError("the journal's disk does not keep up") from None
        await done

    # In the thread

    def _work(self, loop: asyncio.AbstractEventLoop, opened: asyncio.Future[list[Row]]) -> None:
        try:
            rows = self._file.open()
        except (sqlite3.Error, OSError, NewerVersion) as error:
            _answer(loop, _fail, opened, _cannot_open(self._file.path, error))
            return
        _answer(loop, opened.set_result, rows)
        while batch := self._next_batch():
            _answer(loop, _settle, batch, self._commit(loop, batch))
        self._file.close()

    def _commit(self, loop: asyncio.AbstractEventLoop, batch: Sequence[_Write]) -> JournalError | None:
        changes = [change for write in batch for change in write.changes]
        try:
            try:
                self._file.write(changes)
                if older := sum(write.older for write in batch):
                    self._file.grow_older(older)
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise
                _answer(loop, self._renewed)
                self._file.renew(str(error))
                self._file.write(changes)
        except (sqlite3.Error, OSError, NewerVersion) as error:
            if isinstance(error, sqlite3.Error) and is_full(error):
                return JournalError("journal full: its disk has no room")
            return JournalError(f"the journal cannot be written: {error}")
        return None

    def _next_batch(self) -> list[_Write]:
        """Wait for a write and take all that wait; an empty batch is the end."""
        batch: list[_Write] = []
        write = self._queue.get()
        while write is not None:
            batch.append(write)
            if len(batch) == BATCH:
                return batch
            try:
                write = self._queue.get_nowait()
            except queue.Empty:
                return batch
        if batch:
            self._queue.put(None)  # the end comes after this batch
        return batch


def _cannot_open(path: Path, error: Exception) -> JournalError:
    text = f"{path} cannot be used: {error}"
    if isinstance(error, NewerVersion):
        return JournalError(text)
    passing = isinstance(error, sqlite3.Error) and is_passing(error)
    if passing or shutil.disk_usage(path.parent).free < _ALMOST_NOTHING:
        return JournalUnavailable(text)
    return JournalError(text)


def _settle(batch: Sequence[_Write], problem: JournalError | None) -> None:
    for write in batch:
        if write.done.done():  # whoever waited was cancelled
            continue
        if problem is None:
            write.done.set_result(None)
        else:
            write.done.set_exception(problem)


def _fail(future: asyncio.Future[list[Row]], problem: JournalError) -> None:
    if not future.done():
        future.set_exception(problem)


def _answer(loop: asyncio.AbstractEventLoop, call: Callable[[*_Values], object], *values: *_Values) -> None:
    """Call something on the event loop, if it still runs: a process that ends waits for no answer."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(call, *values)
