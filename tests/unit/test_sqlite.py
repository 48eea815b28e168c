"""What is SQLite's own: the file, its failures, the shared commits, and the plans of the queries."""

# ruff: noqa: ASYNC240 - files that a test looks at are small and local

from __future__ import annotations

import asyncio
import re
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx

from dispatcher.ids import is_object_id
from dispatcher.store.access import Scope
from dispatcher.store.errors import NodeDisabled, StoreUnavailable
from dispatcher.store.pieces import CHUNK
from dispatcher.store.records import State
from dispatcher.store.sqlite import SqliteStore, file, threads
from tests.contract.store.cases import (
    ACCOUNT,
    ANSWER,
    CANCELLED,
    LOST,
    NODE,
    REVISION,
    accepted,
    claim_one,
    new_function,
    new_task,
    one_at_a_time,
    task_id,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@pytest.fixture
async def store(path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SqliteStore]:
    monkeypatch.setattr(file, "BUSY_SECONDS", 0.05)
    subject = SqliteStore(path)
    await subject.open()
    yield subject
    await subject.close()


async def create_many(store: SqliteStore, numbers: Iterable[int], size: int = 2) -> set[str]:
    """Create tasks at once; give the ids of those that were acknowledged, where the rest was refused as unavailable."""
    creates = (store.create_task(new_task(number, body=b"x" * size, body_size=size)) for number in numbers)
    results = await asyncio.gather(*creates, return_exceptions=True)
    assert all(isinstance(result, str | StoreUnavailable) for result in results)
    return {result for result in results if isinstance(result, str)}


async def test_files_are_their_owners_alone(path: Path) -> None:
    """The database and everything beside it can be read by nobody else, also where the file was there before."""
    path.touch(0o644)
    store = SqliteStore(path)
    await store.open()
    await store.create_task(new_task())
    files = list(path.parent.iterdir())
    assert {found.name for found in files} == {f"store.sqlite{end}" for end in ("", "-wal", "-shm", "-lock")}
    assert {stat.S_IMODE(found.stat().st_mode) for found in files} == {0o600}
    await store.close()


async def test_one_dispatcher_at_a_time(store: SqliteStore, path: Path) -> None:
    """A second store on the same file is refused until the first is closed."""
    second = SqliteStore(path)
    with pytest.raises(StoreUnavailable, match="in use by another dispatcher"):
        await second.open()
    await store.ping()
    await store.close()
    await second.open()
    await second.close()


async def test_what_cannot_be_opened_is_unavailable(path: Path) -> None:
    """A missing directory and a file that is no database are refused; nothing stays locked."""
    with pytest.raises(StoreUnavailable, match="No such file or directory"):
        await SqliteStore(path.parent / "none" / "store.sqlite").open()
    path.write_bytes(b"this is no database" * 100)
    store = SqliteStore(path)
    with pytest.raises(StoreUnavailable, match="not a database"):
        await store.open()
    path.unlink()
    await store.open()
    await store.close()


async def test_a_newer_database_is_refused(path: Path) -> None:
    """A version that does not know all migrations of a database leaves it alone."""
    store = SqliteStore(path)
    await store.open()
    await store.close()
    with sqlite3.connect(path) as db:
        db.execute("INSERT INTO migration (number, name) VALUES (9999, 'from later')")
    db.close()
    with pytest.raises(StoreUnavailable, match="newer version"):
        await store.open()


async def test_migrations_are_applied_once_and_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Migrations run in order, each once; one that fails leaves nothing of itself, and is tried again."""
    store = SqliteStore(path)
    await store.open()
    await store.create_task(new_task())
    await store.close()

    directory = path.parent / "migrations"
    directory.mkdir()
    for found in file.MIGRATIONS.iterdir():
        (directory / found.name).write_text(found.read_text("utf-8"))
    (directory / "9001_second.sql").write_text("CREATE TABLE second (id INTEGER); INSERT INTO second VALUES (1);")
    (directory / "9002_third.sql").write_text("INSERT INTO second VALUES (2); SELECT * FROM nowhere;")
    monkeypatch.setattr(file, "MIGRATIONS", directory)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="migration 9002"):
            await store.open()
        db = sqlite3.connect(path)
        assert db.execute("SELECT * FROM second").fetchall() == [(1,)]
        db.close()
    (directory / "9002_third.sql").write_text("INSERT INTO second VALUES (2);")
    await store.open()
    await store.ping()
    assert await store.queued() == [(REVISION, ACCOUNT, 1)]
    await store.close()


async def test_tokens_from_before_scopes_go_on(path: Path) -> None:
    """An account of a database that had one alone administers, and its token may do everything, as before."""
    with sqlite3.connect(path) as db:
        db.executescript((file.MIGRATIONS / "0001_first.sql").read_text())
        db.execute("CREATE TABLE migration (number INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT")
        db.execute("INSERT INTO migration VALUES (1, 'first')")
        db.execute("INSERT INTO account VALUES ('default', 'default')")
        db.execute("INSERT INTO token VALUES (?, 'default', 'api-token', 1678087212000)", (b"hash",))
    db.close()
    store = SqliteStore(path)
    await store.open()
    token = await store.token_of(b"hash")
    assert token is not None
    assert (token.account, token.name, token.expires_ms) == ("default", "api-token", None)
    assert token.scopes == set(Scope)
    assert is_object_id(token.id)
    assert token.id.startswith("6405942c"), "its time is that of its creation"
    account = await store.account("default")
    assert account is not None
    assert account.administers
    await store.close()


async def test_a_lock_of_another_program_is_waited_for_and_then_told(store: SqliteStore, path: Path) -> None:
    """While another program holds the database, writes fail and reads do not; afterwards all is as before."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"):
        await store.create_task(new_task())
    with pytest.raises(StoreUnavailable, match="locked"):
        await store.ping()
    assert await store.queued() == []
    other.execute("ROLLBACK")
    other.close()
    await store.ping()
    assert await store.create_task(new_task()) == task_id(1)


async def test_a_full_disk_refuses_and_recovers(store: SqliteStore) -> None:
    """When there is no room, exactly the writes that were acknowledged are there; when there is, writes go on."""

    def limit(db: sqlite3.Connection, pages: int) -> None:
        db.execute(f"PRAGMA max_page_count = {pages}")

    assert store._writer is not None
    await store._writer.run(limit, 200)
    acknowledged = await create_many(store, range(1, 101), 20_000)
    assert len(acknowledged) < 100
    acknowledged |= await create_many(store, range(101, 200))
    assert {line.id for line in await store.tasks(ACCOUNT, 1000, None, None, None)} == acknowledged
    with pytest.raises(StoreUnavailable, match="full"):
        await store.write_body("body", one_at_a_time(b"x" * CHUNK * 4), CHUNK * 4)
    await store._writer.run(limit, 100_000)
    assert len(await create_many(store, range(200, 300), 20_000)) == 100
    await store.ping()


async def test_one_mistake_does_not_spoil_the_others_commit(store: SqliteStore) -> None:
    """Writes that share a commit with one that fails are made; the one that fails leaves nothing."""
    await store.join_node(NODE, ACCOUNT, "", b"c", 1)
    await store.set_node_disabled(ACCOUNT, NODE, disabled=True)
    results = await asyncio.gather(
        store.create_task(new_task(1)),
        store.join_node(NODE, ACCOUNT, "other", b"d", 2),
        store.create_task(new_task(1, revision=REVISION)),
        store.create_task(new_task(2)),
        return_exceptions=True,
    )
    first, joined, twice, second = results
    assert (first, second) == (task_id(1), task_id(2))
    assert isinstance(joined, NodeDisabled)
    assert isinstance(twice, sqlite3.IntegrityError)
    assert await store.queued() == [(REVISION, ACCOUNT, 2)]


async def test_writes_that_wait_share_a_commit(store: SqliteStore) -> None:
    """A hundred callers at once take far fewer commits than a hundred."""
    assert store._writer is not None
    statements: list[str] = []
    await store._writer.run(lambda db: db.set_trace_callback(statements.append))
    assert len(await create_many(store, range(1, 101))) == 100
    assert statements.count("COMMIT") <= 10


async def test_waiting_callers_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With places for two, the third caller waits for one; all are served, and a close lets the waiting go."""
    monkeypatch.setattr(threads, "WAITING", 2)
    store = SqliteStore(path)
    await store.open()
    assert len(await create_many(store, range(1, 50))) == 49
    writer = store._writer
    assert writer is not None
    go = threading.Event()
    held = [asyncio.create_task(writer.run(lambda _: go.wait(10))) for _ in range(2)]
    third = asyncio.create_task(store.create_task(new_task(99)))
    await asyncio.sleep(0)
    assert writer._calls.qsize() <= 2
    closing = asyncio.create_task(writer.close())
    await asyncio.sleep(0)
    go.set()
    assert await asyncio.gather(*held) == [True, True]
    with pytest.raises(StoreUnavailable, match="closed"):
        await third
    await closing
    await store.close()


async def test_no_piece_of_a_body_that_was_cut_short_stays(store: SqliteStore, path: Path) -> None:
    """Pieces that a crash left are gone after the next start."""
    begun = asyncio.Event()

    async def hanging() -> AsyncIterator[bytes]:
        yield b"x" * CHUNK * 3
        begun.set()
        await asyncio.Event().wait()

    writing = asyncio.create_task(store.write_body("key", hanging(), CHUNK * 9))
    await begun.wait()
    # The store closes under the writer, which can then no longer tidy up: as in a crash.
    await store.close()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    db = sqlite3.connect(path)
    assert db.execute("SELECT count(*) FROM body_piece").fetchone() == (3,)
    await store.open()
    assert db.execute("SELECT count(*) FROM body_piece").fetchone() == (0,)
    assert db.execute("SELECT count(*) FROM body").fetchone() == (0,)
    db.close()


async def test_the_event_loop_never_waits_for_the_database(path: Path) -> None:
    """No call of SQLite, nor any other that blocks, is made on the loop's thread: from opening to closing."""
    with blockbuster_ctx():
        store = SqliteStore(path)
        await store.open()
        await use_everything(store)
        await store.close()


async def test_no_query_walks_over_the_tasks(store: SqliteStore) -> None:
    """Every statement finds its tasks by an index, in the order in which it wants them."""
    statements: set[str] = set()
    assert store._writer is not None
    assert store._readers is not None
    await store._writer.run(lambda db: db.set_trace_callback(statements.add))
    meet = threading.Barrier(file.READERS)

    def trace(db: sqlite3.Connection) -> None:
        meet.wait(10)
        db.set_trace_callback(statements.add)

    await asyncio.gather(*(store._readers.run(trace) for _ in range(file.READERS)))
    await use_everything(store)
    plans: dict[str, list[str]] = {}
    explained = [statement for statement in statements if re.match("SELECT|INSERT|UPDATE|DELETE", statement)]

    def explain(db: sqlite3.Connection) -> None:
        db.set_trace_callback(None)
        for statement in explained:
            plans[statement] = [str(step[3]) for step in db.execute(f"EXPLAIN QUERY PLAN {statement}")]

    await store._writer.run(explain)
    assert len(plans) > 40
    for statement, steps in plans.items():
        walks = [step for step in steps if re.match(r"SCAN (t|task|task_\w+|i|o|l|body|body_piece)\b", step)]
        if "size IS NULL OR" not in statement:  # which runs once, at the start, over the large bodies alone
            assert walks == [], statement
        if "GROUP BY revision" in statement:
            assert any("USING COVERING INDEX task_waiting" in step for step in steps), steps
        sorts = [step for step in steps if "TEMP B-TREE" in step]
        # A list sorts once more what it took from the newest end of each state, which is at most its limit.
        assert len(sorts) <= statement.count("SELECT * FROM (SELECT"), (statement, steps)


async def use_everything(store: SqliteStore) -> None:
    """Take every path through the statements on tasks once."""
    function = new_function(0xF)
    await store.add_function(function)
    first = await accepted(store, 1)
    await store.progress(first, "running", 1, "")
    await store.holds(first, NODE)
    await store.input_of(first, NODE)
    await store.lose(first, LOST)
    await store.finish(first, NODE, ANSWER)
    await store.finish(first, NODE, ANSWER)
    await store.create_task(new_task(2, idempotency_key="key"))
    await store.create_task(new_task(3, idempotency_key="key"))
    await store.release((await claim_one(store, 2)).lease)
    for state in [None, *State, "running"]:
        for function_id in (None, function.id):
            await store.tasks(ACCOUNT, 10, task_id(9), function_id, state)
    await store.result(ACCOUNT, task_id(1))
    await store.log(ACCOUNT, task_id(1))
    await store.queued()
    await store.leased()
    await store.expire_queued(REVISION.key, 0, LOST, 1)
    await store.cancel(ACCOUNT, task_id(2), CANCELLED)
    await store.write_body("key", one_at_a_time(b"body"), 4)
    assert [piece async for piece in store.read_body("key")] == [b"body"]
    await store.create_task(new_task(4, body=None, body_size=4, body_key="key"))
    await store.remove_finished(100_000, 10)
    await store.remove_function(ACCOUNT, function.id)
    await store.ping()
