"""Writes that share transactions, so that the database is asked once for many callers.

A lane has one transaction under way. Whatever comes meanwhile makes up the next one: the busier it is, the
more callers share a commit. Each is answered when that commit is confirmed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import structlog

from dispatcher.store.errors import StoreUnavailable
from dispatcher.store.postgres.connections import Connections, Db, OutcomeUnknown

Op = TypeVar("Op")

WAITING = 4096
"""Writes that may wait in a lane; a caller beyond them waits for a place first."""

BATCH = 256
"""Writes that share a transaction at most."""

TRIES = 5
"""Commits that break off one after the other before callers are told that nothing is known."""

log = structlog.get_logger()

Work = Callable[[Db, Sequence[Op], bool], Awaitable[list[Any]]]
"""Makes writes in a transaction and gives for each what its caller gets: a value, or an error to raise. The flag says
that a first try may have been committed."""


class _Call(NamedTuple):
    op: Any
    future: asyncio.Future[Any]


class Lane(Generic[Op]):
    """One line of writes, made in the order in which they came.

    Args:
        repeatable: Says of a write that making it twice comes to the same.
    """

    def __init__(self, name: str, connections: Connections, work: Work[Op], repeatable: Callable[[Op], bool]) -> None:
        self._name = name
        self._connections = connections
        self._work = work
        self._repeatable = repeatable
        self._calls: asyncio.Queue[_Call | None] = asyncio.Queue(WAITING)
        self._closed = False
        self._serving = asyncio.create_task(self._serve(), name=f"lane {name}")

    async def put(self, op: Op) -> Any:
        """Make a write and give its answer, once it is committed.

        A caller that is cancelled while it waits does not take back what it asked for.

        Raises:
            StoreUnavailable: The database is away; nothing is known of the write.
        """
        if self._closed:
            raise StoreUnavailable("the store is closed")
        call = _Call(op, asyncio.get_running_loop().create_future())
        await self._calls.put(call)
        return await call.future

    async def close(self) -> None:
        """Make the writes that wait, and end."""
        if not self._closed:
            self._closed = True
            await self._calls.put(None)
        await asyncio.wait([self._serving])

    async def _serve(self) -> None:
        ending = False
        while not ending:
            calls: list[_Call] = []
            call = await self._calls.get()
            while call is not None:
                calls.append(call)
                if self._calls.empty() or len(calls) == BATCH:
                    break
                call = self._calls.get_nowait()
            ending = call is None
            if calls:
                await self._make(calls)

    async def _make(self, calls: list[_Call], broken: int = 0) -> None:
        try:
            answers = await self._connections.write(self._work, [call.op for call in calls], broken > 0)
        except OutcomeUnknown as error:
            log.warning("a commit broke off, what can be is written again", lane=self._name, writes=len(calls))
            repeated = [call for call in calls if self._repeatable(call.op) and broken + 1 < TRIES]
            _settle([call for call in calls if call not in repeated], error)
            if repeated:
                await self._make(repeated, broken + 1)
        except StoreUnavailable as error:
            log.warning("database write failed", lane=self._name, error=str(error), writes=len(calls))
            _settle(calls, error)
        except Exception as error:  # noqa: BLE001 - it is the caller's whose write it came from
            if len(calls) == 1:
                _settle(calls, error)
                return
            for call in calls:
                await self._make([call], broken)
        else:
            for call, answer in zip(calls, answers, strict=True):
                _settle([call], answer)


def _settle(calls: list[_Call], answer: Any) -> None:
    for call in calls:
        if call.future.done():
            continue
        if isinstance(answer, Exception):
            call.future.set_exception(answer)
        else:
            call.future.set_result(answer)
