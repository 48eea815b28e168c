"""What a node has promised, over a real WebSocket, when its disk, its clock or its own process fails."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from agent.config import JournalConfig
from agent.journal import Journal
from agent.node import Phase
from agent.protocol import (
    INLINE_LIMIT,
    Abandon,
    Accept,
    CreditNotice,
    Decline,
    DispatcherHeartbeat,
    GiveBack,
    Lease,
    NodeHeartbeat,
    Offer,
    Outcome,
    OutcomeAck,
)
from tests.contract.dispatcher_side import Dispatcher
from tests.contract.node_side import (
    REVISION,
    Containers,
    Running,
    StartNode,
    answered,
    large,
    lease,
    left_in_journal,
    ready,
)

MIB = 1024 * 1024
JOB = msgspec.structs.replace(REVISION, mode="job")
DAYS = 86_400.0


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.journal_watch.LOOK_SECONDS", 0.05)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The node's data directory on a disk of its own, of 32 MiB."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m,mode=0700", "tmpfs", tmp_path], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


async def left_by_an_earlier_run(directory: Path, *offers: Offer) -> None:
    journal = Journal(directory)
    await journal.open()
    for offer in offers:
        await journal.accept(offer)
    await journal.close()


# The journal's bounds


async def test_a_full_journal_takes_nothing_new_and_says_so(
    dispatcher: Dispatcher, start: StartNode, tmp_path: Path
) -> None:
    """Outcomes that nobody acknowledges fill it; they stay, and with an acknowledgement work is taken again."""
    running = start(journal=JournalConfig(max_bytes=MIB))
    session = await ready(dispatcher)
    of = lease(1)
    await session.send(Offer(1, of, REVISION))
    function = await running.function()
    function.end(large(of, os.urandom(2 * MIB), tmp_path / "bodies" / "result"))
    await session.expect(Outcome)
    heartbeat = await session.expect(
        NodeHeartbeat, lambda message: message.reason.startswith("journal full: 1 attempt")
    )
    assert not heartbeat.available
    assert heartbeat.credit.slots == 0
    assert of in heartbeat.leases
    await session.send(Offer(2, lease(2), REVISION))
    assert (await session.expect(Decline)).reason.startswith("journal full: ")
    session.pass_over()
    await session.send(OutcomeAck(of, recorded=True))
    heartbeat = await session.expect(NodeHeartbeat, lambda message: message.available)
    assert heartbeat.credit.slots == 3


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(MIB)):
            pass
    return filler


async def test_a_full_disk_costs_no_outcome(dispatcher: Dispatcher, start: StartNode, small_disk: Path) -> None:
    """The outcome is sent from memory, offers are declined, and with room again it is on disk, and work is taken."""
    running = start()
    session = await ready(dispatcher)
    of = lease(1)
    await session.send(Offer(1, of, REVISION))
    function = await running.function()
    filler = await asyncio.to_thread(fill, small_disk)
    function.end(answered(of, os.urandom(INLINE_LIMIT)))
    outcome = await session.expect(Outcome)
    assert outcome.body_size == INLINE_LIMIT
    await session.expect(NodeHeartbeat, lambda message: message.reason.startswith("journal full: "))
    await session.send(Offer(2, lease(2), REVISION))
    assert (await session.expect(Decline)).reason.startswith("journal full: ")
    session.pass_over()
    filler.unlink()
    await session.expect(NodeHeartbeat, lambda message: message.available)
    await session.send(Offer(3, lease(3), REVISION))
    await session.expect(Accept)
    running.task.cancel()  # what the next run finds is what was on disk
    await asyncio.wait([running.task])
    start()
    session = await dispatcher.session()
    assert {(held.lease, held.finished) for held in session.hello.held} >= {(of, True)}


async def test_a_disk_that_is_full_at_the_start_is_waited_for(
    dispatcher: Dispatcher, start: StartNode, small_disk: Path
) -> None:
    """The agent does not end, and names what it holds as soon as it can read it."""
    of = lease(1)
    await left_by_an_earlier_run(small_disk, Offer(1, of, REVISION))
    filler = await asyncio.to_thread(fill, small_disk)
    running = start()
    while "cannot be used" not in running.node.status().reason:
        await asyncio.sleep(0.01)
    assert dispatcher.asked == []
    filler.unlink()
    session = await dispatcher.session()
    assert [held.lease for held in session.hello.held] == [of]


async def test_a_node_can_be_stopped_while_it_waits_for_its_journal(start: StartNode, small_disk: Path) -> None:
    """A stop does not wait for room on the disk."""
    await asyncio.to_thread(fill, small_disk)
    running = start(urls=["http://127.0.0.1:1"])
    while not running.node.status().reason.startswith(str(small_disk)):
        await asyncio.sleep(0.01)
    running.node.stop()
    await running.ended()
    assert running.phase() is Phase.STOPPED


async def test_a_damaged_journal_does_not_keep_a_node_from_work(
    dispatcher: Dispatcher, start: StartNode, tmp_path: Path
) -> None:
    """It is set aside, and the dispatcher hears that nothing is held."""
    await left_by_an_earlier_run(tmp_path, Offer(1, lease(1), REVISION))
    (tmp_path / "journal.sqlite").write_bytes(os.urandom(50_000))
    with capture_logs() as logs:
        running = start()
        session = await ready(dispatcher)
    assert session.hello.held == []
    assert [line["event"][:15] for line in logs if line["log_level"] == "error"] == ["journal damaged"]
    await session.send(Offer(1, lease(2), REVISION))
    await running.function()


async def test_what_is_too_old_is_dropped_with_a_loud_line(
    dispatcher: Dispatcher, start: StartNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a week of an agent that ran, an outcome that no dispatcher took is let go; before that it is not."""
    monkeypatch.setattr("agent.journal_watch.LOOK_SECONDS", 0.05)
    monkeypatch.setattr("agent.node.LOOK_SECONDS", 0.05)
    now = [1000.0]
    of = lease(1)
    running = start(monotonic=lambda: now[0])
    session = await ready(dispatcher)
    await session.send(Offer(1, of, REVISION))
    (await running.function()).end(answered(of))
    await session.expect(Outcome)
    while running.node._journal.count == 0:
        await asyncio.sleep(0.01)
    now[0] += 6.9 * DAYS
    await session.expect(Outcome)  # repeated, since it is overdue
    with capture_logs() as logs:
        now[0] += 0.2 * DAYS
        await session.expect(CreditNotice)
        while running.node.status().spool.attempts:
            await asyncio.sleep(0.01)
    (line,) = [line for line in logs if line["log_level"] == "error"]
    assert (line["event"], line["task"]) == ("dropped: the dispatcher did not take it in time", of.task)
    running.task.cancel()
    await asyncio.wait([running.task])
    assert await left_in_journal(tmp_path) == 0


async def test_outcomes_survive_days_without_a_dispatcher(
    dispatcher: Dispatcher, start: StartNode, tmp_path: Path
) -> None:
    """Cut off for days and restarted in between, the node still delivers."""
    now = [1000.0]
    running = start(monotonic=lambda: now[0])
    session = await ready(dispatcher)
    of = lease(1)
    await session.send(Offer(1, of, REVISION))
    function = await running.function()
    dispatcher.refusals += [web.Response(status=503)] * 1000
    await session.ws.close()
    function.end(answered(of, b"kept"))
    while not running.node.status().spool.finished:
        await asyncio.sleep(0.01)
    now[0] += 3 * DAYS
    running.task.cancel()
    await asyncio.wait([running.task])
    now[0] = 50.0
    running = start(monotonic=lambda: now[0])
    now[0] += 3 * DAYS
    dispatcher.refusals.clear()
    session = await dispatcher.welcomed()
    assert (await session.expect(Outcome)).body == b"kept"


# The wall clock


@pytest.mark.parametrize("jump", [400 * DAYS, -400 * DAYS], ids=["ahead", "back"])
async def test_a_wall_clock_that_jumps_changes_nothing(
    dispatcher: Dispatcher, start: StartNode, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, jump: float
) -> None:
    """Leases are renewed, the session holds, outcomes stay; only the offset from the dispatcher tells of it."""
    monkeypatch.setattr("agent.session.HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr("agent.session.SILENCE_SECONDS", 1.0)
    wall = [1_700_000_000.0]
    running = start(wall=lambda: wall[0])
    session = await ready(dispatcher)
    session.answers_heartbeats = False
    first, second = lease(1), lease(2)
    await session.send(Offer(1, first, REVISION), Offer(2, second, REVISION))
    functions = [await running.function(), await running.function()]
    functions[0].end(answered(functions[0].offer.lease))
    await session.expect(Outcome)

    async def heartbeat() -> NodeHeartbeat:
        found = await session.expect(NodeHeartbeat)
        await session.send(DispatcherHeartbeat(found.sent, 1_700_000_000_000))
        return found

    while (found := await heartbeat()).clock_offset is None:
        pass
    assert abs(found.clock_offset) < 1000
    wall[0] += jump
    while abs((found := await heartbeat()).clock_offset or 0.0) < 1000:
        pass
    assert found.clock_offset == pytest.approx(-jump * 1000, abs=1000)
    for _ in range(5):
        found = await heartbeat()
        assert set(found.leases) == {first, second}
        assert found.available
    assert session.seen(GiveBack) == []
    assert session.seen(Outcome) == []
    functions[1].end(answered(functions[1].offer.lease))
    await session.expect(Outcome)
    assert len(dispatcher.asked) == 1
    running.task.cancel()
    await asyncio.wait([running.task])
    wall[0] -= 2 * jump
    start(wall=lambda: wall[0])
    session = await dispatcher.session()
    assert {(held.lease, held.finished) for held in session.hello.held} == {(first, True), (second, True)}


# A restart


async def interrupted(
    dispatcher: Dispatcher, start: StartNode, directory: Path, *, found: bool
) -> tuple[Running, Lease]:
    of = lease(1)
    await left_by_an_earlier_run(directory, Offer(1, of, JOB, query="a=b", body=b"input", body_size=5))
    containers = Containers()
    if found:
        containers.jobs.add(of.task)
    return start(containers=containers), of


async def test_a_job_that_still_runs_goes_on(dispatcher: Dispatcher, start: StartNode, tmp_path: Path) -> None:
    """The attempt is named as held, holds its permit, is not given back, and its outcome comes under the same lease."""
    running, of = await interrupted(dispatcher, start, tmp_path, found=True)
    session = await dispatcher.welcomed()
    assert [(held.lease, held.finished) for held in session.hello.held] == [(of, False)]
    function = await running.function()
    assert function.readopted
    assert (function.offer.lease, function.offer.query) == (of, "a=b")
    heartbeat = await session.expect(NodeHeartbeat, lambda message: message.available)
    assert heartbeat.credit.slots == 2
    function.end(answered(of))
    assert (await session.expect(Outcome)).lease == of
    assert session.seen(GiveBack) == []


async def test_a_job_whose_container_is_gone_is_given_back(
    dispatcher: Dispatcher, start: StartNode, tmp_path: Path
) -> None:
    """As soon as the engine says so."""
    _, of = await interrupted(dispatcher, start, tmp_path, found=False)
    session = await dispatcher.welcomed()
    given_back = await session.expect(GiveBack)
    assert (given_back.lease, given_back.started, given_back.credit.slots) == (of, True, 3)


async def test_an_engine_that_does_not_come_is_not_waited_for_for_ever(
    dispatcher: Dispatcher, start: StartNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job waits for the engine for a bounded time; calls, which died with the agent, do not wait at all."""
    monkeypatch.setattr("agent.assignments.ADOPTION_SECONDS", 0.3)
    job, call = lease(1), lease(2)
    await left_by_an_earlier_run(tmp_path, Offer(1, job, JOB), Offer(2, call, REVISION))
    containers = Containers()
    containers.problem = "no engine"
    start(containers=containers)
    session = await dispatcher.welcomed()
    assert (await session.expect(GiveBack)).lease == call
    given_back = await session.expect(GiveBack)
    assert (given_back.lease, given_back.started) == (job, True)


async def test_a_job_that_was_taken_away_meanwhile_does_not_go_on(
    dispatcher: Dispatcher, start: StartNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the dispatcher abandons in its hello is not adopted when the engine is found."""
    monkeypatch.setattr("agent.engine_watch.SEARCH_SECONDS", 0.1)
    of = lease(1)
    await left_by_an_earlier_run(tmp_path, Offer(1, of, JOB))
    containers = Containers()
    containers.jobs.add(of.task)
    containers.problem = "no engine yet"
    running = start(containers=containers)
    session = await dispatcher.welcomed(abandon=[of])
    await session.expect(CreditNotice)
    containers.problem = None
    await session.expect(NodeHeartbeat, lambda message: message.available)
    assert running.functions.empty()
    assert session.seen(GiveBack) == []
    running.task.cancel()
    await asyncio.wait([running.task])
    assert await left_in_journal(tmp_path) == 0


async def test_a_readopted_job_that_is_lost_counts_as_started(
    dispatcher: Dispatcher, start: StartNode, tmp_path: Path
) -> None:
    """Whatever goes wrong with it now, the function saw its input."""
    running, _ = await interrupted(dispatcher, start, tmp_path, found=True)
    session = await dispatcher.welcomed()
    function = await running.function()
    await session.send(Abandon(lease(5), "stale"))
    function.end(RuntimeError("a bug"))
    assert (await session.expect(GiveBack)).started


async def test_a_row_that_cannot_be_read_is_given_back(
    dispatcher: Dispatcher, start: StartNode, tmp_path: Path
) -> None:
    """The lease is all that is known of it, and that is enough to say that it is lost."""
    of = lease(1)
    await left_by_an_earlier_run(tmp_path, Offer(1, of, JOB))
    database = sqlite3.connect(tmp_path / "journal.sqlite")
    database.execute("UPDATE attempt SET offer = x'c1'")
    database.commit()
    database.close()
    start()
    session = await dispatcher.welcomed()
    assert (await session.expect(GiveBack)).lease == of


# Removal


async def test_a_removed_node_ends_its_work_and_keeps_its_outcomes(dispatcher: Dispatcher, start: StartNode) -> None:
    """Its tasks are others' by then; should the node be restored, it delivers what it has."""
    running = start()
    session = await ready(dispatcher)
    finished, unfinished = lease(1), lease(2)
    await session.send(Offer(1, finished, REVISION), Offer(2, unfinished, REVISION))
    functions = [await running.function(), await running.function()]
    functions[0].end(answered(functions[0].offer.lease))
    await session.expect(Outcome)
    dispatcher.refusals.append(web.Response(status=403))
    await session.ws.close()
    while functions[1].stopped is None:
        await asyncio.sleep(0.01)
    assert running.node.status().reason == "this node was removed from its account"
    running.node._link._leaving = True  # type: ignore[union-attr] # the next try comes after half a minute
