"""Migrations: one dispatcher at a time, and the version before still runs on what they leave."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dispatcher.store.errors import StoreUnavailable
from dispatcher.store.postgres import PostgresStore, schema
from dispatcher.store.postgres.address import parse
from tests import postgres
from tests.contract.store.cases import ACCOUNT, REVISION, new_task, task_id

NEXT = schema.migrations()[-1].number + 1
"""Of a migration that there is not yet."""


def store_at(directory: Path) -> PostgresStore:
    return PostgresStore(parse(postgres.shared().schema(postgres.name_of(directory))), pool=4)


async def test_many_that_start_at_once_migrate_once(tmp_path: Path) -> None:
    """Dispatchers that start together on an empty database all come up, on one schema."""
    stores = [store_at(tmp_path) for _ in range(5)]
    await asyncio.gather(*(store.open() for store in stores))
    for store in stores:
        await store.ping()
    await stores[0].create_task(new_task())
    assert await stores[4].task(ACCOUNT, task_id(1)) is not None
    await asyncio.gather(*(store.close() for store in stores))


async def test_the_version_before_runs_on_a_newer_schema(tmp_path: Path) -> None:
    """A migration that only adds is passed over by a program that does not know it; one that takes away is not."""
    old, new, too_new = store_at(tmp_path), store_at(tmp_path), store_at(tmp_path)
    await old.open()
    adds = schema.Migration(NEXT, "adds", 1, "ALTER TABLE task ADD COLUMN more TEXT NOT NULL DEFAULT 'x'")
    new._known = [*new._known, adds]
    await new.open()
    await new.ping()
    await old.create_task(new_task(1))
    assert await new.queued() == await old.queued() == [(REVISION, ACCOUNT, 1)]
    await old.close()
    await old.open()
    await old.ping()
    takes = schema.Migration(NEXT + 1, "takes", NEXT, "ALTER TABLE task DROP COLUMN more")
    too_new._known = [*new._known, takes]
    await too_new.open()
    await old.close()
    with pytest.raises(StoreUnavailable, match="newer version"):
        await old.open()
    await asyncio.gather(new.close(), too_new.close())


async def test_a_migration_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """The schema is as it was before, and the next start does it again."""
    store = store_at(tmp_path)
    good = store._known
    store._known = [*good, schema.Migration(NEXT, "fails", 1, "CREATE TABLE half (x INTEGER); SELECT nonsense")]
    with pytest.raises(StoreUnavailable, match=rf"migration {NEXT} \(fails\)"):
        await store.open()
    assert postgres.shared().sql(f"SELECT to_regclass('{postgres.name_of(tmp_path)}.half') IS NULL") == "t"
    store._known = good
    await store.open()
    await store.ping()
    await store.close()
