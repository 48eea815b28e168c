"""The journal keeps what the node promised, over a restart and over failures."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from agent.config import JournalConfig
from agent.journal import MIB, Journal, JournalError, JournalUnavailable, Kept
from agent.protocol import Lease, Offer, Outcome, Revision


def lease(number: int) -> Lease:
    return Lease(f"{number:024x}", 1, os.urandom(16))


def offer(of: Lease) -> Offer:
    return Offer(1, of, Revision("f" * 24, 1, "hello", env={"KEY": "value"}), body=b"secret input", body_size=12)


def stripped(of: Lease) -> Offer:
    return msgspec.structs.replace(offer(of), body=None)


def answered(of: Lease, body: bytes = b"hello") -> Outcome:
    return Outcome(of, "answered", 200, body=body, body_size=len(body))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of 32 MiB."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m,mode=0700", "tmpfs", tmp_path], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


def fill(disk: Path, leave: int = 0) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize > leave:
            file.write(bytes(min(MIB, os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - leave)))
    return filler


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
    assert kept == [Kept(running, stripped(running), None, None), Kept(finished, stripped(finished), outcome, body)]


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
    assert "locked" in journal.obstacle
    blocker.execute("ROLLBACK")
    blocker.close()
    await journal.look()
    assert journal.obstacle == ""
    await journal.close()
    assert await reopened(tmp_path) == []
    with pytest.raises(JournalError):
        await journal.accept(offer(lease(2)))


@pytest.mark.parametrize(
    "content",
    [b"not a database" * 100, b"SQLite format 3\x00" + b"\xff" * 200, None],
    ids=["text", "header", "other table"],
)
async def test_a_damaged_file_is_set_aside_and_the_node_works_on(tmp_path: Path, content: bytes | None) -> None:
    """The file stays for people to look at, a loud line says so, and bodies that nobody names any more go."""
    file = tmp_path / "journal.sqlite"
    if content is not None:
        file.write_bytes(content)
    else:
        other = sqlite3.connect(file)
        other.execute("CREATE TABLE attempt (something)")
        other.close()
    (tmp_path / "bodies").mkdir()
    (tmp_path / "bodies" / "result").write_bytes(b"x")
    journal = Journal(tmp_path, wall=lambda: 1_000_000_000)
    with capture_logs() as logs:
        assert await journal.open() == []
    assert [line["log_level"] for line in logs] == ["error"]
    aside = tmp_path / "journal.sqlite.damaged-20010909T014640Z"
    assert aside.exists()
    assert content is None or aside.read_bytes() == content
    assert list((tmp_path / "bodies").iterdir()) == []
    await journal.accept(offer(lease(1)))
    await journal.close()
    assert len(await reopened(tmp_path)) == 1


async def test_damaged_files_do_not_pile_up(tmp_path: Path) -> None:
    """A card that fails again and again keeps the newest few."""
    moments = iter(range(1_000_000_000, 1_000_000_100))
    for _ in range(6):
        (tmp_path / "journal.sqlite").write_bytes(b"not a database" * 100)
        journal = Journal(tmp_path, wall=lambda: next(moments))
        await journal.open()
        await journal.close()
    assert sum(".damaged-" in name for name in os.listdir(tmp_path)) == 3  # noqa: PTH208


async def test_damage_while_it_is_used_loses_nothing_that_is_known(tmp_path: Path) -> None:
    """A file that is overwritten under the running agent is replaced, and holds everything again."""
    journal = Journal(tmp_path)
    await journal.open()
    running, finished = lease(1), lease(2)
    for number in range(100, 300):
        await journal.accept(offer(lease(number)))
    await journal.accept(offer(running))
    await journal.accept(offer(finished))
    await journal.finish(answered(finished), None)
    # The connection has the pages in memory until another one has changed the file.
    other = sqlite3.connect(tmp_path / "journal.sqlite", isolation_level=None)
    other.execute("PRAGMA user_version = 1")
    other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with (tmp_path / "journal.sqlite").open("r+b") as file:
        file.write(os.urandom(16_384))
    with capture_logs() as logs:
        with suppress(JournalError):
            await journal.accept(offer(lease(3)))
        await journal.look()
    other.close()
    assert "error" in [line["log_level"] for line in logs]
    assert journal.obstacle == ""
    await journal.close()
    kept = {item.lease: item for item in await reopened(tmp_path)}
    assert kept[running].offer == stripped(running)
    assert kept[finished].outcome == answered(finished)
    assert len(kept) >= 202


async def test_one_row_that_cannot_be_read_does_not_take_the_others_along(tmp_path: Path) -> None:
    """Of a row whose outcome is garbage, or whose body is gone or cut, the lease is known, and can be given back."""
    journal = Journal(tmp_path)
    await journal.open()
    garbage, without, cut, good = (lease(number) for number in range(1, 5))
    for of in (garbage, without, cut, good):
        await journal.accept(offer(of))
    await journal.finish(answered(garbage), None)
    for of in (without, cut, good):
        body = journal.bodies / of.task
        body.write_bytes(b"12345")
        await journal.finish(Outcome(of, "answered", 200, body=None, body_size=5), body)
    await journal.close()
    (tmp_path / "bodies" / without.task).unlink()
    (tmp_path / "bodies" / cut.task).write_bytes(b"123")
    database = sqlite3.connect(tmp_path / "journal.sqlite")
    database.execute("UPDATE attempt SET outcome = x'c1', offer = x'c1' WHERE task = ?", (garbage.task,))
    database.commit()
    database.close()
    kept = {item.lease: item for item in await reopened(tmp_path)}
    assert kept[garbage] == Kept(garbage, None, None, None)
    assert kept[without].outcome is kept[cut].outcome is None
    assert kept[good].outcome is not None
    assert [file.name for file in (tmp_path / "bodies").iterdir()] == [good.task]


# Its bounds


async def test_a_full_journal_takes_no_lease_and_drops_no_outcome(tmp_path: Path) -> None:
    """Inputs and bodies count; what was accepted is kept beyond the bound, and room comes with what is forgotten."""
    journal = Journal(tmp_path, JournalConfig(max_bytes=MIB))
    await journal.open()
    first, second, large = lease(1), lease(2), lease(3)
    await journal.accept(offer(first))
    with pytest.raises(JournalError, match=r"journal full: there is no room for an input of 1\.0 MiB"):
        await journal.accept(msgspec.structs.replace(offer(large), body=None, body_size=MIB))
    assert journal.obstacle == ""
    await journal.accept(offer(second))
    body = journal.bodies / "result"
    body.write_bytes(bytes(2 * MIB))
    await journal.finish(Outcome(first, "answered", 200, body=None, body_size=2 * MIB), body)
    assert journal.obstacle.startswith("journal full: 2 attempts with 2.0 MiB")
    with pytest.raises(JournalError, match="journal full"):
        await journal.accept(offer(large))
    await journal.finish(answered(second), None)
    await journal.close()
    journal = Journal(tmp_path, JournalConfig(max_bytes=MIB))
    assert len(await journal.open()) == 2
    assert journal.obstacle.startswith("journal full")
    journal.changed.clear()
    await journal.forget(first)
    assert journal.changed.is_set()
    assert journal.obstacle == ""
    assert journal.count == 1
    await journal.close()


async def test_what_is_held_in_memory_is_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outcomes that travel in messages have a bound of their own, however large the disk is."""
    monkeypatch.setattr("agent.journal.ROWS_LIMIT", 100_000)
    journal = Journal(tmp_path)
    await journal.open()
    await journal.accept(offer(lease(1)))
    await journal.finish(answered(lease(1), bytes(100_000)), None)
    assert journal.obstacle.startswith("journal full")
    await journal.close()


async def test_a_full_disk_declines_and_comes_back_by_itself(small_disk: Path) -> None:
    """Nothing is claimed to be on disk that is not; what is owed is written as soon as there is room."""
    journal = Journal(small_disk)
    await journal.open()
    before = lease(1)
    await journal.accept(offer(before))
    filler = fill(small_disk)
    outcome = answered(before, os.urandom(200_000))
    with pytest.raises(JournalError, match="journal full: its disk has no room"):
        await journal.finish(outcome, None)
    await journal.look()
    assert journal.obstacle.startswith("journal full")
    with pytest.raises(JournalError, match="journal full"):
        await journal.accept(offer(lease(2)))
    filler.unlink()
    await journal.look()
    assert journal.obstacle == ""
    await journal.accept(offer(lease(3)))
    await journal.close()
    kept = {item.lease.task: item for item in await reopened(small_disk)}
    assert kept[before.task].outcome == outcome
    assert sorted(kept) == [lease(1).task, lease(3).task]


async def test_a_disk_that_is_nearly_full_is_left_to_what_was_accepted(small_disk: Path) -> None:
    """The last of the room is for outcomes."""
    journal = Journal(small_disk)
    await journal.open()
    await journal.accept(offer(lease(1)))
    filler = fill(small_disk, leave=4 * MIB - 1)
    await journal.look()
    assert journal.obstacle == "journal full: its disk has 3 MiB left"
    await journal.finish(answered(lease(1)), None)
    filler.unlink()
    await journal.look()
    assert journal.obstacle == ""
    await journal.close()


async def test_a_disk_that_is_full_at_the_start_can_be_waited_for(small_disk: Path) -> None:
    """The error says that it passes, and the same journal opens when there is room."""
    journal = Journal(small_disk)
    filler = fill(small_disk)
    with pytest.raises(JournalUnavailable):
        await journal.open()
    filler.unlink()
    assert await journal.open() == []
    await journal.close()


async def test_age_is_the_time_that_the_agent_ran(tmp_path: Path) -> None:
    """Neither a wall clock that jumps nor the time between two runs makes an outcome older; runs add up."""
    now, wall = [1000.0], [1e9]
    of = lease(1)

    def another() -> Journal:
        return Journal(tmp_path, wall=lambda: wall[0], monotonic=lambda: now[0])

    journal = another()
    await journal.open()
    await journal.accept(offer(of))
    now[0] += 500
    await journal.finish(answered(of), None)
    assert journal.age(of) == 0
    now[0] += 3600
    wall[0] += 40 * 86_400
    await journal.look()
    assert journal.age(of) == 3600
    await journal.close()
    wall[0] -= 400 * 86_400
    now[0] = 5.0  # the machine was started again
    journal = another()
    await journal.open()
    assert journal.age(of) == pytest.approx(3600, abs=0.001)
    now[0] += 100
    assert journal.age(of) == pytest.approx(3700, abs=0.001)
    crashed = shutil.copytree(tmp_path, tmp_path / "crashed")  # the last ages are not written
    await journal.close()
    journal = Journal(crashed, monotonic=lambda: now[0])
    await journal.open()
    assert journal.age(of) == pytest.approx(3600, abs=0.001)
    await journal.close()


async def test_a_journal_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    """An older agent does not guess at what a newer one wrote."""
    await reopened(tmp_path)
    database = sqlite3.connect(tmp_path / "journal.sqlite")
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(JournalError, match="newer version"):
        await Journal(tmp_path).open()
