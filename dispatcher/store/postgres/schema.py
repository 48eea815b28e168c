"""The schema, brought up to date by whichever dispatcher comes first.

During a rolling upgrade the dispatchers of the version before run on the new schema. So a migration only
adds what they can pass over; one that takes away what a version still uses names, in its first line, the
oldest migration that a program must know to run on it: ``-- oldest: 7``.
"""

from __future__ import annotations

import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple

import asyncpg
import structlog

from dispatcher.store.errors import StoreUnavailable
from dispatcher.store.postgres.connections import Db

MIGRATIONS = files("dispatcher.store") / "migrations" / "postgres"
"""Files ``<number>_<name>.sql``; a file that was released is never changed."""

LOCK = 0x6665726E64
"""Of the advisory lock under which migrations run: the letters of fernd."""

TUNING = (
    # A queue leaves a dead row behind for each step of a task: they are swept long before a fifth of the table is
    # dead, as is the default, so that claims do not walk over them.
    "ALTER TABLE task SET (fillfactor = 80)",
    "ALTER TABLE task SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 2000)",
    "ALTER TABLE task SET (autovacuum_analyze_scale_factor = 0.02)",
    "ALTER TABLE message SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000)",
)
"""What PostgreSQL itself understands, and databases that speak like it may not."""

log = structlog.get_logger()


class Migration(NamedTuple):
    """One step of the schema."""

    number: int
    name: str
    oldest: int
    """A program that does not know this migration must know this one to run on the schema."""
    script: str


def migrations(directory: Traversable = MIGRATIONS) -> list[Migration]:
    """Read all migrations that this program knows."""
    found = []
    for file in directory.iterdir():
        number, _, name = file.name.removesuffix(".sql").partition("_")
        script = file.read_text("utf-8")
        oldest = re.match(r"-- oldest: (\d+)\n", script)
        found.append(Migration(int(number), name, int(oldest[1]) if oldest else 1, script))
    return sorted(found)


async def migrate(db: Db, known: list[Migration]) -> int:
    """Apply what is missing, alone, in the transaction that the caller has begun; give how many there were.

    Raises:
        StoreUnavailable: The schema is of a version that is too new for this program.
    """
    await db.execute(f"SELECT pg_advisory_xact_lock({LOCK})")
    await db.execute(
        "CREATE TABLE IF NOT EXISTS migration (number INTEGER PRIMARY KEY, name TEXT NOT NULL, oldest INTEGER NOT NULL)"
    )
    applied = {row[0]: row[1] for row in await db.fetch("SELECT number, oldest FROM migration")}
    newest = known[-1].number
    if max(applied.values(), default=0) > newest:
        raise StoreUnavailable("the database was made by a newer version of fernd, which this one cannot work with")
    missing = [migration for migration in known if migration.number not in applied]
    for migration in missing:
        try:
            await db.execute(migration.script)
        except asyncpg.PostgresError as error:
            raise StoreUnavailable(f"migration {migration.number} ({migration.name}) failed: {error}") from error
        await db.execute(
            "INSERT INTO migration (number, name, oldest) VALUES ($1, $2, $3)",
            migration.number,
            migration.name,
            migration.oldest,
        )
        log.info("migration applied", number=migration.number, name=migration.name)
    return len(missing)


async def tune(db: Db) -> None:
    """Say how tables are to be swept, where the database takes it."""
    for statement in TUNING:
        try:
            async with db.transaction():
                await db.execute(statement)
        except asyncpg.PostgresError as error:
            log.info("the database cannot be tuned, which is of no harm", error=str(error))


async def check(db: Db, known: list[Migration]) -> None:
    """Return if every migration is done and the database can be written.

    Raises:
        StoreUnavailable: It is not so.
    """
    applied = {row[0] for row in await db.fetch("SELECT number FROM migration")}
    if not applied.issuperset(migration.number for migration in known):
        raise StoreUnavailable("migrations are missing")
    if await db.fetchval("SHOW transaction_read_only") != "off":
        raise StoreUnavailable("the database can only be read")
