"""Where nodes have their sessions, or had them last: the statements on `seat`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dispatcher.store.peers import Seated, SeatShown
from dispatcher.store.postgres import tasks
from dispatcher.store.postgres.connections import Db
from dispatcher.store.records import Leased


class Sit(NamedTuple):
    """A node has its session here, and says this of itself."""

    node: str
    presence: bytes


class Rise(NamedTuple):
    """A node has no session here any more."""

    node: str


async def seat(replica: str, db: Db, ops: Sequence[Sit | Rise], _again: bool) -> list[Seated | None]:
    """Seat nodes and let them rise, in this order; a node may be there several times."""
    sitting = sorted({op.node for op in ops if isinstance(op, Sit)})
    found = await db.fetch("SELECT node, replica FROM seat WHERE node = ANY($1) ORDER BY node FOR UPDATE", sitting)
    before: dict[str, str] = {row[0]: row[1] for row in found}
    was: list[str | None] = []
    last: dict[str, bytes | None] = {}
    for op in ops:
        was.append(before.get(op.node))
        last[op.node] = op.presence if isinstance(op, Sit) else None
        if isinstance(op, Sit):
            before[op.node] = replica
    if sitting:
        # In the order of their names, as every dispatcher locks them: of two that seat the same nodes one waits for the
        # other, and never both.
        await db.execute(
            "INSERT INTO seat (node, replica, presence)"
            " SELECT new.node, $2, new.presence FROM unnest($1::text[], $3::bytea[]) AS new (node, presence)"
            " ON CONFLICT (node) DO UPDATE SET replica = excluded.replica, presence = excluded.presence",
            *(sitting, replica, [last[node] for node in sitting]),
        )
    if risen := sorted(last.keys() - set(sitting)):
        await db.execute("UPDATE seat SET presence = NULL WHERE node = ANY($1) AND replica = $2", risen, replica)
    held: dict[str, list[Leased]] = {node: [] for node in sitting}
    for leased in await tasks.leased(db, replica, sitting) if sitting else []:
        held[leased.node].append(leased)
    return [Seated(seat, held[op.node]) if isinstance(op, Sit) else None for op, seat in zip(ops, was, strict=True)]


async def show(db: Db, replica: str, presences: Sequence[tuple[str, bytes]]) -> list[str]:
    """See `Peers.show`."""
    ordered = sorted(dict(presences).items())
    found = await db.fetch(
        "UPDATE seat SET presence = new.presence FROM unnest($1::text[], $2::bytea[]) AS new (node, presence)"
        " WHERE seat.node = new.node AND seat.replica = $3 RETURNING seat.node",
        [node for node, _ in ordered],
        [presence for _, presence in ordered],
        replica,
    )
    here = {row[0] for row in found}
    return [node for node, _ in ordered if node not in here]


_SHOWN = (
    "SELECT s.node, s.replica, s.presence FROM seat s JOIN replica r ON r.id = s.replica WHERE s.presence IS NOT NULL"
)


async def shown(db: Db, nodes: Sequence[str]) -> list[SeatShown]:
    """See `Peers.shown`."""
    return [SeatShown(*row) for row in await db.fetch(f"{_SHOWN} AND s.node = ANY($1)", nodes)]


async def shown_of(db: Db, account: str, most: int) -> list[SeatShown]:
    """See `Peers.shown_of`."""
    whose = "s.node IN (SELECT id FROM node WHERE account = $1)"
    found = await db.fetch(f"{_SHOWN} AND {whose} LIMIT $2", account, most)
    return [SeatShown(*row) for row in found]


async def adopt(db: Db, replica: str) -> list[Leased]:
    """See `Peers.adopt`."""
    adopted = await db.fetch(
        "UPDATE seat SET replica = $1, presence = NULL"
        " WHERE node IN (SELECT node FROM task WHERE state IN ('offered', 'accepted'))"
        " AND NOT EXISTS (SELECT 1 FROM replica r WHERE r.id = seat.replica) RETURNING node",
        replica,
    )
    return await tasks.leased(db, replica, [row[0] for row in adopted]) if adopted else []
