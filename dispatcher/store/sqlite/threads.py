"""The threads on which SQLite runs, so that the event loop never waits for a disk.

All writes go through one thread, which takes everything that waits and commits it together: the
disk is asked once for many callers, and the busier it is the more of them share a commit. Reads
have threads of their own and see the last commit without waiting for the next.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import structlog

from dispatcher.store.errors import StoreUnavailable

P = ParamSpec("P")
T = TypeVar("T")

WAITING = 4096
"""Calls that may wait for a thread; a caller beyond them waits for a place first."""

BATCH = 256
"""Writes that share a commit at most."""

_log = structlog.get_logger()

_OURS = (sqlite3.IntegrityError, sqlite3.ProgrammingError)
"""Errors of SQLite that are mistakes of this program and say nothing of the database."""


class _Call(NamedTuple):
    work: Callable[[sqlite3.Connection], Any]
    future: asyncio.Future[Any]


class _Failure(NamedTuple):
    error: BaseException


class _Threads(ABC):
    """Calls that wait, and threads with a connection each that make them.

    Args:
        connections: One thread is started for each; the threads close them at the end.
    """

    def __init__(self, name: str, connections: list[sqlite3.Connection]) -> None:
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Semaphore(WAITING)
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._closed = False
        self._running = len(connections)
        self._ended = asyncio.Event()
        for number, db in enumerate(connections):
            # Daemons, so that a process whose loop died is not kept alive by its store.
            threading.Thread(target=self._serve, args=(db,), name=f"{name}-{number}", daemon=True).start()

    async def run(self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``work(connection, …)`` on a thread and give what it returns.

        A caller that is cancelled while it waits does not take back what it asked for.

        Raises:
            StoreUnavailable: The database failed, or the threads have ended.
        """
        await self._room.acquire()
        if self._closed:
            self._room.release()
            raise StoreUnavailable("the store is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._calls.put(_Call(lambda db: work(db, *args, **kwargs), future))
        return await future

    async def close(self) -> None:
        """Make the calls that wait, then end the threads and close their connections."""
        if not self._closed:
            self._closed = True
            for _ in range(self._running):
                self._calls.put(None)
        await self._ended.wait()

    @abstractmethod
    def _take(self, first: _Call) -> list[_Call]:
        """Give the calls that are made together, beginning with ``first``."""

    @abstractmethod
    def _make(self, db: sqlite3.Connection, calls: list[_Call]) -> list[Any]:
        """Make calls; give for each what it returned, or a `_Failure`."""

    def _serve(self, db: sqlite3.Connection) -> None:
        while (call := self._calls.get()) is not None:
            calls = self._take(call)
            results = self._make(db, calls)
            self._tell(self._settle, calls, results)
            # What the last callers sent and got is not kept until the next ones come.
            del call, calls, results
        with suppress(sqlite3.Error):
            db.close()
        self._tell(self._thread_ended)

    def _tell(self, callback: Callable[..., None], *args: object) -> None:
        # The loop may be closed by now, and then nobody waits any more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *args)

    def _settle(self, calls: list[_Call], results: list[Any]) -> None:
        for call, result in zip(calls, results, strict=True):
            self._room.release()
            if call.future.done():
                continue
            if isinstance(result, _Failure):
                call.future.set_exception(result.error)
            else:
                call.future.set_result(result)

    def _thread_ended(self) -> None:
        self._running -= 1
        if self._running == 0:
            self._ended.set()


class Readers(_Threads):
    """Threads that read, each call by itself."""

    def _take(self, first: _Call) -> list[_Call]:
        return [first]

    def _make(self, db: sqlite3.Connection, calls: list[_Call]) -> list[Any]:
        (call,) = calls
        try:
            return [call.work(db)]
        except Exception as error:  # noqa: BLE001 - it is the caller's
            return [_Failure(_as_caller_sees(error))]


class Writer(_Threads):
    """The thread that writes: one, for SQLite has one writer at a time."""

    def _take(self, first: _Call) -> list[_Call]:
        calls = [first]
        with suppress(Empty):
            while len(calls) < BATCH:
                call = self._calls.get_nowait()
                if call is None:
                    self._calls.put(None)
                    break
                calls.append(call)
        return calls

    def _make(self, db: sqlite3.Connection, calls: list[_Call]) -> list[Any]:
        try:
            db.execute("BEGIN IMMEDIATE")
            results = [self._make_one(db, call) for call in calls]
            db.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - whatever it is, the next callers find the thread alive
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            _log.error("database write failed", error=str(error), calls=len(calls))
            return [_Failure(_as_caller_sees(error)) for _ in calls]
        return results

    def _make_one(self, db: sqlite3.Connection, call: _Call) -> Any:
        db.execute("SAVEPOINT one")
        try:
            result = call.work(db)
        except Exception as error:
            # Some failures, such as a full disk, end the whole transaction: nobody's write is in it then.
            if not db.in_transaction:
                raise
            db.execute("ROLLBACK TO one")
            result = _Failure(_as_caller_sees(error))
        db.execute("RELEASE one")
        return result


def _as_caller_sees(error: Exception) -> Exception:
    if isinstance(error, (sqlite3.Error, MemoryError)) and not isinstance(error, _OURS):
        unavailable = StoreUnavailable(str(error))
        unavailable.__cause__ = error
        return unavailable
    return error
