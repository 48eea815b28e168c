"""The dispatchers that share a database: statements, and what wakes them.

A message is a row of the table `message`. LISTEN and NOTIFY say that one is there, and to whom, and nothing
else: without them, as through a pooling proxy, each dispatcher looks four times a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

import structlog

from agent.protocol import Lease, Revision
from dispatcher.store import rows
from dispatcher.store.peers import EndShown, Seated, SeatShown
from dispatcher.store.postgres import seats
from dispatcher.store.postgres.connections import Connections, Db, is_away
from dispatcher.store.postgres.lanes import Lane
from dispatcher.store.records import Leased, State

P = ParamSpec("P")
T = TypeVar("T")

CHANNEL = "fernd"

SLOW_POLL_SECONDS = 2.0
"""Where LISTEN works, the box is looked into this often all the same."""

FAST_POLL_SECONDS = 0.25

LISTEN_AGAIN_SECONDS = 1.0

log = structlog.get_logger()


async def enter(db: Db, replica: str) -> None:
    """Let a dispatcher be one of those that share the database."""
    await db.execute("INSERT INTO replica (id, beat) VALUES ($1, 0) ON CONFLICT DO NOTHING", replica)


async def leave(db: Db, replica: str) -> None:
    """Take a dispatcher out."""
    await db.execute("DELETE FROM replica WHERE id = $1", replica)
    await db.execute("DELETE FROM message WHERE replica = $1", replica)


async def _beat(db: Db, replica: str) -> dict[str, int] | None:
    alive = await db.fetchval("UPDATE replica SET beat = beat + 1 WHERE id = $1 RETURNING beat", replica)
    if alive is None:
        await enter(db, replica)
        return None
    found = await db.fetch("SELECT id, beat FROM replica WHERE id <> $1", replica)
    return {row[0]: row[1] for row in found}


async def _bury(db: Db, name: str, beat: int) -> bool:
    buried = await db.fetchval("DELETE FROM replica WHERE id = $1 AND beat = $2 RETURNING id", name, beat)
    if buried is not None:
        await db.execute("DELETE FROM message WHERE replica = $1", name)
    return buried is not None


async def _post(db: Db, messages: Sequence[tuple[str, bytes]]) -> None:
    await db.execute(
        "INSERT INTO message (replica, content) SELECT * FROM unnest($1::text[], $2::bytea[])",
        [to for to, _ in messages],
        [content for _, content in messages],
    )
    await db.execute("SELECT pg_notify($1, $2)", CHANNEL, " ".join(sorted({to for to, _ in messages})))


async def _collect(db: Db, replica: str, most: int) -> list[bytes]:
    found = await db.fetch(
        "DELETE FROM message WHERE serial IN (SELECT serial FROM message WHERE replica = $1 ORDER BY serial LIMIT $2)"
        " RETURNING serial, content",
        *(replica, most),
    )
    return [row[1] for row in sorted(found)]


async def _revisions(db: Db, keys: Sequence[str]) -> list[tuple[Revision, str]]:
    found = await db.fetch(f"SELECT {rows.OWNED} FROM revision r WHERE r.key = ANY($1)", keys)  # noqa: S608 - constants
    return [(rows.revision(definition), account) for definition, account in found if account is not None]


async def _ended(db: Db, ids: Sequence[str]) -> list[EndShown]:
    found = await db.fetch(
        "SELECT id, state, status, error FROM task WHERE id = ANY($1) AND finished_ms IS NOT NULL", ids
    )
    return [EndShown(task, State(state), status, error) for task, state, status, error in found]


async def _taken(db: Db, leases: Sequence[Lease]) -> list[Lease]:
    found = await db.fetch(
        "SELECT t.id FROM task t JOIN unnest($1::text[], $2::integer[], $3::bytea[]) AS lease (task, attempt, token)"
        " ON t.id = lease.task AND t.attempt = lease.attempt AND t.token = lease.token"
        " WHERE t.state IN ('offered', 'accepted')",
        [lease.task for lease in leases],
        [lease.attempt for lease in leases],
        [lease.token for lease in leases],
    )
    good = {row[0] for row in found}
    return [lease for lease in leases if lease.task not in good]


class PostgresPeers:
    """`Peers` in the database of a store. It listens from `start` to `stop`."""

    def __init__(self, connections: Connections, name: str) -> None:
        self.name = name
        self._connections = connections
        self._woken = asyncio.Event()
        self._listens = False
        self._listening: asyncio.Task[None] | None = None
        self._seats: Lane[seats.Sit | seats.Rise]

    def start(self) -> None:
        """Take up work, and begin to listen, where that is possible."""
        # A seat whose commit broke off is not taken again: who had it before would not be known any more. Its session
        # ends, and the node comes anew.
        self._seats = Lane(
            "seats", self._connections, partial(seats.seat, self.name), lambda op: isinstance(op, seats.Rise)
        )
        if not self._connections.pooled:
            self._listening = asyncio.create_task(self._listen(), name="listen")

    async def stop(self) -> None:
        """Listen no more; what is to be written of seats is written."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait([self._listening])
        await self._seats.close()

    async def beat(self) -> dict[str, int] | None:  # noqa: D102 - see `Peers`, as with those below
        return await self._write(_beat, self.name)

    async def bury(self, name: str, beat: int) -> bool:  # noqa: D102
        return await self._write(_bury, name, beat)

    async def adopt(self) -> list[Leased]:  # noqa: D102
        return await self._write(seats.adopt, self.name)

    async def sit(self, node: str, presence: bytes) -> Seated:  # noqa: D102
        seated: Seated = await self._seats.put(seats.Sit(node, presence))
        return seated

    async def rise(self, node: str) -> None:  # noqa: D102
        await self._seats.put(seats.Rise(node))

    async def show(self, presences: Sequence[tuple[str, bytes]]) -> list[str]:  # noqa: D102
        return await self._write(seats.show, self.name, presences)

    async def shown(self, nodes: Sequence[str]) -> list[SeatShown]:  # noqa: D102
        return await self._connections.read(seats.shown, nodes)

    async def shown_of(self, account: str, most: int) -> list[SeatShown]:  # noqa: D102
        return await self._connections.read(seats.shown_of, account, most)

    async def post(self, messages: Sequence[tuple[str, bytes]]) -> None:  # noqa: D102
        await self._write(_post, messages)

    async def collect(self, most: int) -> list[bytes]:  # noqa: D102
        return await self._write(_collect, self.name, most)

    async def news(self) -> None:  # noqa: D102
        with suppress(TimeoutError):
            async with asyncio.timeout(SLOW_POLL_SECONDS if self._listens else FAST_POLL_SECONDS):
                await self._woken.wait()
        self._woken.clear()

    async def revisions(self, keys: Sequence[str]) -> list[tuple[Revision, str]]:  # noqa: D102
        return await self._connections.read(_revisions, keys)

    async def ended(self, tasks: Sequence[str]) -> list[EndShown]:  # noqa: D102
        return await self._connections.read(_ended, tasks)

    async def taken(self, leases: Sequence[Lease]) -> list[Lease]:  # noqa: D102
        return await self._connections.read(_taken, leases)

    async def _write(self, work: Callable[Concatenate[Db, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._connections.write(work, *args, **kwargs)

    async def _listen(self) -> None:
        """Hold a connection that listens; where it breaks, or the database does not know how, look more often."""
        said = ""
        while True:
            try:
                await self._hold_listening()
                said = ""
            except Exception as error:
                if not is_away(error) and not hasattr(error, "sqlstate"):
                    raise
                if str(error) != said:
                    said = str(error)
                    log.warning("cannot listen, the database is looked into more often", error=said)
            self._listens = False
            await asyncio.sleep(LISTEN_AGAIN_SECONDS)

    async def _hold_listening(self) -> None:
        connecting = asyncio.ensure_future(self._connections.connect())
        try:
            db = await asyncio.shield(connecting)
        except asyncio.CancelledError:
            # A connection that is made when nobody waits for it any more would stay open.
            with suppress(Exception):
                (await connecting).terminate()
            raise
        try:
            ended = asyncio.Event()
            db.add_termination_listener(lambda _: ended.set())
            await db.add_listener(CHANNEL, self._hear)
            self._listens = True
            self._woken.set()
            await ended.wait()
        finally:
            db.terminate()

    def _hear(self, _db: Any, _sender: int, _channel: str, payload: str) -> None:
        if self.name in payload.split():
            self._woken.set()
