"""What passes between the agent and a function, on the real engine: requests, answers, output, warm containers."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from agent.containers.host import ContainerHost
from agent.containers.output import LOG_BYTES
from agent.protocol import Revision
from tests.contract.containers.calls import Caller, Heard, eventually, revision, running_host

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]


def answer(ran: Any) -> Any:
    assert ran.outcome.body is not None, ran.outcome
    return json.loads(ran.outcome.body)


async def test_lines_of_one_name_in_several_spellings_all_arrive(call: Caller) -> None:
    """No header line is lost because another spells its name otherwise."""
    headers = [("X-Ok", "1"), ("x-ok", "2"), ("X-OK", "3")]
    seen = answer(await call(revision(), "do=echo", b"", headers))["headers"]
    assert [value for name, value in seen if name.lower() == "x-ok"] == ["1", "2", "3"]


async def test_a_container_serves_several_requests_at_a_time(call: Caller) -> None:
    """With concurrency, tasks share a warm container, and what happens to one of them leaves the others alone."""
    shared = revision(concurrency=3, timeout=2, env={"THREADS": "1"})
    first = await call(shared, "do=echo")
    late = asyncio.create_task(call(shared, "do=sleep&value=5"))
    await eventually(lambda: _borrowers(call, shared, 1))
    others = await asyncio.gather(*(call(shared, "do=echo") for _ in range(2)))
    assert {first.outcome.cold, *(ran.outcome.cold for ran in others)} == {True, False}
    assert [ran.outcome.ending for ran in others] == ["answered", "answered"]
    assert (await late).outcome.ending == "timeout"
    assert await call.containers_of(shared) == []


async def _borrowers(call: Caller, revision: Revision, count: int) -> bool:
    held = [each for each in call.host.pool._all.values() if each.spec.revision == revision.key]
    return [each.borrowers for each in held] == [count]


async def test_the_request_arrives_as_it_was_sent(call: Caller) -> None:
    """Query and body byte for byte, end-to-end headers in order, ours in place of copies, and nothing invented."""
    query = "a=%20+%C3%A4&&a=2&%zz&q=[]'\"é"
    headers = [
        ("Content-Type", "application/json"),
        ("X-B", "2"),
        ("X-A", "1"),
        ("X-B", "1"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("x-task-id", "forged"),
        ("X-Deadline", "forged"),
        ("Authorization", "Bearer secret"),
        ("Cookie", "secret=1"),
        ("Connection", "X-Hop, close"),
        ("X-Hop", "1"),
        ("Transfer-Encoding", "chunked"),
        ("Expect", "100-continue"),
        ("Host", "elsewhere"),
        ("Content-Length", "7"),
    ]
    tested = revision(timeout=7)
    body = bytes(range(256))
    before = time.time()
    ran = await call(tested, query, body, headers)
    seen = answer(ran)
    # What is not ASCII in a query can only be sent as UTF-8; a server reads bytes.
    assert seen["target"].encode("latin-1").decode() == f"/?{query}"
    assert seen["body"].encode("latin-1") == body
    transport = {"Host", "Content-Length", "Connection"}
    assert [(name, value) for name, value in seen["headers"] if name not in {*transport, "X-Deadline"}] == [
        *headers[:5],
        ("X-Task-Id", ran.outcome.lease.task),
        ("X-Function-Id", tested.function),
        ("X-Attempt", "1"),
    ]
    assert sorted((name, value) for name, value in seen["headers"] if name in transport) == [
        ("Content-Length", "256"),
        ("Host", "127.0.0.1:8080"),
    ]
    [deadline] = [int(value) for name, value in seen["headers"] if name == "X-Deadline"]
    assert (before + 7) * 1000 <= deadline + 1 <= (time.time() + 7) * 1000 + 1


async def test_the_answer_comes_back_as_it_was_given(call: Caller) -> None:
    """Status, end-to-end headers in order with their duplicates, and the body; hop-by-hop headers stay behind."""
    outcome = (await call(revision(), "do=echo")).outcome
    assert outcome.headers == [("Set-Cookie", "a=1"), ("X-Odd", "y"), ("Set-Cookie", "b=2")]
    assert outcome.body is not None
    assert outcome.body_size == len(outcome.body)
    assert (await call(revision(), "do=chunked")).outcome.headers == []


async def test_phases_and_times(call: Caller) -> None:
    """A cold start and a warm one report their phases and take their times by part."""
    tested, cold, warm = revision(), Heard(), Heard()
    first = (await call(tested, heard=cold)).outcome
    second = (await call(tested, heard=warm)).outcome
    assert (cold.phases, first.cold) == (["starting", "running", "uploading"], True)
    assert (warm.phases, second.cold) == (["running", "uploading"], False)
    assert first.spans.starting > first.spans.running > 0
    assert (second.spans.starting, second.spans.pulling) == (0, 0)
    pool = call.host.pool
    assert pool.waiting.cold_starts.get(tested.key) == pytest.approx(first.spans.starting / 1000, rel=0.2)
    assert pool.waiting.services.get(tested.key) is not None


async def test_output_is_the_tasks_own(call: Caller) -> None:
    """Progress lines set the progress, on both streams, and are left out of the log; other lines are shown and kept."""
    tested, heard, again = revision(), Heard(), Heard()
    outcome = (await call(tested, "do=print&value=42", heard=heard)).outcome
    assert heard.percents == [(42, "on the way")]
    assert sorted(heard.lines) == [("stderr", b"::progress::101"), ("stderr", b"to stderr"), ("stdout", b"plain words")]
    assert sorted(outcome.log.head.splitlines()) == [b"::progress::101", b"plain words", b"to stderr"]
    outcome = (await call(tested, "do=print&value=7", heard=again)).outcome
    assert again.percents == [(7, "on the way")]
    assert (outcome.cold, outcome.log.head.count(b"plain words")) == (False, 1)


async def test_a_flood_holds_up_nobody(call: Caller) -> None:
    """A function that writes 100 MB is not blocked by it, its log stays bounded, and the loop goes on."""
    heard, beats = Heard(), 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.01)
            beats += 1

    beating = asyncio.create_task(beat())
    outcome = (await call(revision(timeout=30, mem_size=128), "do=flood&value=100", heard=heard)).outcome
    beating.cancel()
    assert outcome.body == b"flooded"
    assert outcome.log.head.startswith(b"first line\nxxx")
    assert outcome.log.tail.endswith(b"x\nlast line\n")
    assert len(outcome.log.head) == len(outcome.log.tail) == LOG_BYTES // 2
    assert outcome.log.omitted > 98_000_000
    assert beats > outcome.spans.running / 100


async def test_job_result_and_log(call: Caller) -> None:
    """A job's standard output is its result, whatever it looks like; its standard error is progress and log."""
    heard = Heard()
    ran = await call(revision(mode="job"), "do=echo", b"\xff\x00in", heard=heard)
    result = ran.outcome.body
    assert result is not None
    first, second = result.splitlines()
    assert first == b"::progress::99"
    assert json.loads(second) == {"input": "\xff\x00in", "task": ran.outcome.lease.task}
    assert heard.percents == [(10, "begun")]
    assert (ran.outcome.log.head, heard.lines) == (b"hello from the log\n", [("stderr", b"hello from the log")])
    assert dict(ran.outcome.headers)["Content-Type"] == "text/plain; charset=utf-8"
    assert heard.phases == ["starting", "running", "uploading"]


async def test_job_input_from_a_file(call: Caller, tmp_path: Path) -> None:
    """A large input goes from its file to the job."""
    (tmp_path / "input").write_bytes(b"x" * 3_000_000)
    outcome = (await call(revision(mode="job"), "do=count", tmp_path / "input")).outcome
    assert outcome.body == b"::progress::99\n3000000\n"


# warm containers ----------------------------------------------------------------------------------


async def test_reuse(call: Caller) -> None:
    """The same revision gets the same container; another revision, and a function without reuse, do not."""
    tested = revision()
    pids = [answer(await call(tested))["pid"] for _ in range(3)]
    assert len(set(pids)) == 1
    assert call.host.warm().count(tested.key) == 1
    assert (await call(revision(function=tested.function, number=2))).outcome.cold
    once = revision(reuse=False)
    assert (await call(once)).outcome.cold
    assert (await call(once)).outcome.cold
    assert await call.containers_of(once) == []


async def test_one_request_at_a_time(call: Caller) -> None:
    """Two tasks of a revision at the same time get a container each."""
    tested, heard = revision(), Heard()
    slow = asyncio.create_task(call(tested, "do=sleep&value=1", heard=heard))
    await heard.until(lambda heard: bool(heard.lines))
    assert (await call(tested)).outcome.cold
    assert (await slow).outcome.body == b"slept"
    assert len(await call.containers_of(tested)) == 2


async def test_a_warm_container_that_died(call: Caller) -> None:
    """A container that ends while it is idle is noticed, removed, and never handed out."""
    tested = revision()
    await call(tested, "do=die-later&value=0.2")
    await eventually(lambda: _no_container(call, tested))
    assert tested.key not in call.host.warm()
    assert (await call(tested)).outcome.cold


async def _no_container(call: Caller, tested: Any) -> bool:
    return not await call.containers_of(tested)


async def test_a_warm_container_that_cannot_be_connected_to(call: Caller) -> None:
    """Where no connection can be made nothing was sent, so the request goes to a new container."""
    tested = revision()
    await call(tested)
    [container] = [each for each in call.host.pool._idle.values() if each.spec.revision == tested.key]
    assert container.door is not None
    container.door.port = 9
    outcome = (await call(tested)).outcome
    assert (outcome.ending, outcome.cold) == ("answered", True)


async def test_paused_and_resumed(images: None, tmp_path: Path, client: Any) -> None:
    """An idle container is paused after a while, runs again for the next task, and is removed in the end."""
    ahead = 0.0
    async with running_host(idle_seconds=50.0) as host:
        pool, call, tested = host.pool, Caller(host, tmp_path), revision()
        pool._monotonic = lambda: time.monotonic() + ahead
        pid = answer(await call(tested))["pid"]
        [name] = await call.containers_of(tested)
        ahead += 20
        await pool.tend()
        assert client.inspect_container(name)["State"]["Paused"]
        again = await call(tested)
        assert (answer(again)["pid"], again.outcome.cold) == (pid, False)
        ahead += 20
        await pool.tend()
        assert client.inspect_container(name)["State"]["Paused"]
        ahead += 40
        await pool.tend()
        assert await call.containers_of(tested) == []


async def test_kept_ready(images: None, tmp_path: Path) -> None:
    """A revision that wants it has a container before its first task, which is no cold start; others have none."""
    async with running_host() as host:
        call, wanted, broken = Caller(host, tmp_path), revision(warm=1), revision(warm=1, image="fernd-test-missing")
        host.keep_ready([broken, revision(warm=1, mode="job"), wanted])
        await eventually(lambda: _is_warm(host, wanted))
        outcome = (await call(wanted, "do=print&value=42")).outcome
        assert (outcome.ending, outcome.cold) == ("answered", False)
        assert outcome.log.head, "what it writes during its first task is heard"
        host.keep_ready([])
        assert host.warm() == [wanted.key]


async def _is_warm(host: ContainerHost, wanted: Revision) -> bool:
    return wanted.key in host.warm()


async def test_the_engine_is_lost(images: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the engine does not answer an attempt is given back, and says whether it had begun."""
    async with running_host() as host:
        call, tested = Caller(host, tmp_path), revision()
        working = host.engine._http
        host.engine._http = None
        back = await call.gives_back(tested)
        host.engine._http = working
        assert (back.reason, back.started) == ("engine_lost", False)
        assert (await call(tested)).outcome.ending == "answered"
