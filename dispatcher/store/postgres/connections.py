"""Connections to the database: bounded in number, made anew when they break, with whichever host is the primary.

What is done on a connection is a transaction or a single read. Where the connection breaks under it, it is
done again on another one for as long as callers can be kept waiting, unless nobody knows whether it was
committed: then it is only done again where doing it twice comes to the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Concatenate, ParamSpec, TypeVar

import asyncpg
import structlog

from dispatcher.store.errors import StoreUnavailable
from dispatcher.store.postgres.address import Address, Host

P = ParamSpec("P")
T = TypeVar("T")

Db = Any
"""A connection of the driver, which is untyped."""

CONNECT_SECONDS = 3.0
"""A host that does not let us in within so long is passed over for the next."""

STATEMENT_SECONDS = 30.0
"""A statement that takes longer than this is given up, and its connection with it."""

PATIENCE_SECONDS = 10.0
"""A caller is kept waiting for so long while the database restarts or fails over."""

PAUSE_SECONDS = 0.1
"""Between two tries."""

CACHED_STATEMENTS = 256

BY_INDEX = "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off; SET jit = off"
"""Every statement here has an index with its order. A plan that was made and cached while a table was nearly empty, or
while nothing waited, must not walk over what has come since. What must be sorted all the same looks dear then, and is
not worth compiling."""

log = structlog.get_logger()

_AGAIN = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.InvalidCachedStatementError,
)
"""The database took the transaction back and says that another try may go through."""

_AWAY_CLASSES = frozenset({"08", "28", "3D", "53", "57", "58", "XX"})
"""Classes of SQLSTATE that speak of the connection or the server, not of the statement: Appendix A of the manual."""

_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.TargetServerAttributeNotMatched,
    asyncpg.ReadOnlySQLTransactionError,
)


class OutcomeUnknown(StoreUnavailable):
    """The connection broke while it was committed: it may be in the database, or not."""


class Connections:
    """A pool that outlives its servers.

    Args:
        size: Connections that are open at most.

    Attributes:
        pooled: A proxy that gives each transaction whichever connection is free stands between us and the
            server. Then no statement is prepared ahead, every read is a transaction, and nothing can be
            listened for.
    """

    def __init__(self, address: Address, size: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._address = address
        self._size = size
        self._monotonic = monotonic
        self._hosts: list[Host | None] = list(address.hosts) or [None]
        self._pool: Any = None
        self.pooled = False

    async def open(self) -> None:
        """Find the primary, and a proxy if there is one.

        Raises:
            StoreUnavailable: No host lets us in.
        """
        try:
            first = await self.connect(statement_cache_size=0)
            try:
                async with first.transaction():
                    # A proxy makes up the number that it gives at the start of a session.
                    self.pooled = await first.fetchval("SELECT pg_backend_pid()") != first.get_server_pid()
            finally:
                await first.close(timeout=CONNECT_SECONDS)
            self._pool = await asyncpg.create_pool(
                min_size=1,
                max_size=self._size,
                connect=self.connect,
                reset=_nothing,  # no session state is ever set, so there is none to be taken back
                statement_cache_size=0 if self.pooled else CACHED_STATEMENTS,
            )
        except Exception as error:
            if not is_away(error):
                raise
            raise self._unavailable(error) from error

    async def close(self) -> None:
        """Close all connections."""
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    await pool.close()
            except TimeoutError:
                pool.terminate()

    async def connect(self, *_: Any, **settings: Any) -> Db:
        """Connect to the first host that lets us in and can be written; begin with the one that did so last."""
        last: Exception | None = None
        for host in list(self._hosts):
            where = {} if host is None else {"host": host.name, "port": host.port}
            try:
                db = await asyncpg.connect(
                    self._address.url,
                    **where,
                    **settings,
                    timeout=CONNECT_SECONDS,
                    command_timeout=STATEMENT_SECONDS,
                    target_session_attrs=self._address.session,
                )
            except Exception as error:
                if not is_away(error):
                    raise
                last = error
                continue
            if not self.pooled:
                try:
                    with suppress(asyncpg.PostgresError):  # only PostgreSQL itself needs to know this
                        await db.execute(BY_INDEX)
                except BaseException:
                    db.terminate()
                    raise
            if host is not self._hosts[0]:
                self._hosts.sort(key=lambda other: other is not host)
                log.info("another database host is the primary", host=str(host))
            return db
        assert last is not None, "there is at least one host"  # noqa: S101
        raise last

    async def read(self, work: Callable[Concatenate[Db, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do what changes nothing: ``work(db, …)``.

        Raises:
            StoreUnavailable: The database is away.
        """

        async def once(db: Db) -> T:
            if not self.pooled:
                return await work(db, *args, **kwargs)
            async with db.transaction():
                return await work(db, *args, **kwargs)

        return await self._on_connection(once)

    async def write(self, work: Callable[Concatenate[Db, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do ``work(db, …)`` in a transaction.

        Raises:
            OutcomeUnknown: The connection broke at the commit.
            StoreUnavailable: The database is away, and nothing was changed.
        """

        async def once(db: Db) -> T:
            transaction = db.transaction()
            await transaction.start()
            try:
                result = await work(db, *args, **kwargs)
            except BaseException:
                with suppress(Exception):  # where this fails too, the server has taken it back
                    await transaction.rollback()
                raise
            try:
                await transaction.commit()
            except Exception as error:
                if is_away(error):
                    raise OutcomeUnknown(str(error) or type(error).__name__) from error
                raise
            return result

        return await self._on_connection(once)

    async def _on_connection(self, work: Callable[[Db], Awaitable[T]]) -> T:
        until = self._monotonic() + PATIENCE_SECONDS
        while True:
            pool = self._pool
            if pool is None:
                raise StoreUnavailable("the store is not open")
            try:
                async with pool.acquire() as db:
                    return await work(db)
            except _AGAIN as error:
                if self._monotonic() >= until:
                    raise self._unavailable(error) from error
            except OutcomeUnknown:
                await self._forget(pool)
                raise
            except Exception as error:
                if not is_away(error):
                    raise
                await self._forget(pool)
                if self._monotonic() >= until or self._pool is not pool:
                    raise self._unavailable(error) from error
            await asyncio.sleep(PAUSE_SECONDS)

    @staticmethod
    async def _forget(pool: Any) -> None:
        """Let every connection be made anew before it is used: its server may be another's standby by now."""
        await pool.expire_connections()

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(f"PostgreSQL at {self._address}: {error or type(error).__name__}")


def is_away(error: Exception) -> bool:
    """Say whether an error is of the connection or the server, so that another try may go through."""
    if isinstance(error, _AWAY):
        return True
    return isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "")[:2] in _AWAY_CLASSES


async def _nothing(_db: Db) -> None:
    return
