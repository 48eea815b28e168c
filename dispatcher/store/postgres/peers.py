"""The dispatchers that share a database, and what they tell each other through it."""

from __future__ import annotations

from dispatcher.store.postgres.connections import Db


async def enter(db: Db, replica: str) -> None:
    """Let a dispatcher be one of those that share the database."""
    await db.execute("INSERT INTO replica (id, beat) VALUES ($1, 0) ON CONFLICT DO NOTHING", replica)


async def leave(db: Db, replica: str) -> None:
    """Take a dispatcher out."""
    await db.execute("DELETE FROM replica WHERE id = $1", replica)
    await db.execute("DELETE FROM message WHERE replica = $1", replica)
