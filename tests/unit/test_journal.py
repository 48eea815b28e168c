"""The journal keeps what the node promised, over a restart and over failures."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from pathlib import Path

import pytest

from agent.journal import Journal, JournalError, Kept
from agent.protocol import Lease, Offer, Outcome, Revision


def lease(number: int) -> Lease:
    return Lease(f"{number:024x}", 1, os.urandom(16))


def offer(of: Lease) -> Offer:
    return Offer(1, of, Revision("f" * 24, 1, "hello", env={"KEY": "value"}), body=b"secret input", body_size=12)


async def reopened(directory: Path) -> list[Kept]:
    journal = Journal(directory)
    kept = await journal.open()
    await journal.close()
    return kept


async def test_accepts_and_outcomes_survive_until_they_are_forgotten(tmp_path: Path) -> None:
    """What a later run finds is exactly what was promised and not settled."""
    journal = Journal(tmp_path)
    assert await journal.open() == []
    running, finished, gone = lease(1), lease(2), lease(3)
    await asyncio.gather(*(journal.accept(offer(of)) for of in (running, finished, gone)))
    body = journal.bodies / "result"
    body.write_bytes(b"large")
    outcome = Outcome(finished, "answered", 200, body=None, body_size=5)
    await journal.finish(outcome, body)
    await journal.forget(gone)
    await journal.close()
    kept = sorted(await reopened(tmp_path), key=lambda item: item.lease.task)
    assert kept == [Kept(running, None, None), Kept(finished, outcome, body)]


async def test_files_that_no_outcome_names_are_removed(tmp_path: Path) -> None:
    """What a crash left half-written does not fill the disk."""
    await reopened(tmp_path)
    (tmp_path / "bodies" / "half").write_bytes(b"x")
    await reopened(tmp_path)
    assert list((tmp_path / "bodies").iterdir()) == []


async def test_nobody_else_can_read_it_and_inputs_are_not_in_it(tmp_path: Path) -> None:
    """The files are the owner's alone, and an input is not kept."""
    journal = Journal(tmp_path)
    await journal.open()
    await journal.accept(offer(lease(1)))
    files = [tmp_path / f"journal.sqlite{suffix}" for suffix in ("", "-wal", "-shm")]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert not any(b"secret input" in file.read_bytes() for file in files)
    await journal.close()


async def test_many_writes_share_few_commits(tmp_path: Path) -> None:
    """A burst of a thousand accepts is on disk within a moment."""
    journal = Journal(tmp_path)
    await journal.open()
    async with asyncio.timeout(10):
        await asyncio.gather(*(journal.accept(offer(lease(number))) for number in range(1000)))
    await journal.close()
    assert len(await reopened(tmp_path)) == 1000


async def test_a_write_that_fails_says_so_and_a_later_one_clears_it(tmp_path: Path) -> None:
    """While another process locks the database no accept is claimed; afterwards the journal works again."""
    journal = Journal(tmp_path, busy_seconds=0.05)
    await journal.open()
    blocker = sqlite3.connect(tmp_path / "journal.sqlite", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalError, match="locked"):
        await journal.accept(offer(lease(1)))
    assert "locked" in journal.failure
    blocker.execute("ROLLBACK")
    blocker.close()
    await journal.probe()
    assert journal.failure == ""
    await journal.close()
    with pytest.raises(JournalError):
        await journal.accept(offer(lease(2)))


@pytest.mark.parametrize("content", [b"not a database" * 100, b"SQLite format 3\x00" + b"\xff" * 200])
async def test_a_file_that_is_no_journal_is_named(tmp_path: Path, content: bytes) -> None:
    """The agent does not run without its memory, and says which file is wrong."""
    (tmp_path / "journal.sqlite").write_bytes(content)
    with pytest.raises(JournalError, match=r"journal\.sqlite cannot be used"):
        await Journal(tmp_path).open()


async def test_a_journal_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    """An older agent does not guess at what a newer one wrote."""
    await reopened(tmp_path)
    database = sqlite3.connect(tmp_path / "journal.sqlite")
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(JournalError, match="newer version"):
        await Journal(tmp_path).open()
