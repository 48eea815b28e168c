"""The table of endings: every way in which a function can end, on the real engine."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from agent.containers.engine import EngineError, EngineUnavailable, NotAsked
from agent.containers.engine_http import CALLS
from agent.invocation import GaveBack, Ran, StopReason
from agent.protocol import INLINE_LIMIT, Outcome, Revision
from tests.contract.containers.calls import (
    ENTRYPOINT_IMAGE,
    NO_COMMAND_IMAGE,
    RESULT_LIMIT,
    WRONG_COMMAND_IMAGE,
    Caller,
    Heard,
    revision,
)

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

MISSING_IMAGE = "127.0.0.1:9/fernd-missing:latest"


def case(name: str, query: str, ending: str, *, detail: str = "", **more: Any) -> Any:
    """One row of the table.

    Args:
        query: What the function is told to do.
        ending: How the attempt must end.
        detail: What the sentence about it must contain.
        more: Changes of the revision; or ``status``, ``exit_code``, ``body`` of the outcome.
    """
    expected = {key: more.pop(key) for key in ("status", "exit_code", "body") if key in more}
    return pytest.param(query, ending, detail, expected, more, id=name)


HTTP = [
    case("answer", "do=status&value=200", "answered", status=200, body=b"as you wish"),
    case("answer that is an error", "do=status&value=503", "answered", status=503),
    case("answer of not found", "do=status&value=404", "answered", status=404),
    case("exit before the answer", "do=exit&value=3", "crash", detail="code 3 before it answered", exit_code=3),
    case("exit with 0 before the answer", "do=exit&value=0", "crash", detail="code 0 before it answered", exit_code=0),
    case("exit during the answer", "do=exit-during&value=4", "crash", detail="code 4 during its answer", exit_code=4),
    case("exit during an answer without length", "do=exit-during-open-ended&value=5", "crash", detail="during"),
    case("segmentation fault", "do=signal&value=SIGSEGV", "crash", detail="SIGSEGV", exit_code=139),
    case("abort", "do=signal&value=SIGABRT", "crash", detail="SIGABRT", exit_code=134),
    case("killed by itself", "do=signal&value=SIGKILL", "crash", detail="SIGKILL", exit_code=137),
    case("out of memory", "do=memory", "oom", detail="64 MiB"),
    case("out of memory in a child", "do=memory-in-child", "oom", detail="memory"),
    case("never listening", "", "never_ready", detail="port 8080", env={"START": "never"}),
    case("listening late", "do=status&value=200", "answered", env={"START": "late:1.0"}, status=200),
    case(
        "never answering the ready path", "", "never_ready", detail="/r?do=status", ready_path="/r?do=status&value=500"
    ),
    case(
        "answering the ready path", "do=status&value=200", "answered", ready_path="/r?do=status&value=204", status=200
    ),
    case("exiting at once", "", "crash", detail="code 7 before it was ready", env={"START": "exit:7"}, exit_code=7),
    case("dying at once", "", "crash", detail="SIGSEGV", env={"START": "signal:SIGSEGV"}, exit_code=139),
    case("answer that is cut", "do=cut", "bad_response", detail="in the middle of the answer"),
    case("answer that is garbage", "do=garbage", "bad_response", detail="is not HTTP: bad status line"),
    case("no answer", "do=close", "bad_response", detail="without an answer"),
    case("change of protocol", "do=switch", "bad_response", detail="101"),
    case("hints before the answer", "do=early-hints", "answered", status=200, body=b"after the hints"),
    case("redirect, not followed", "do=redirect", "answered", status=302),
    case("chunked answer", "do=chunked", "answered", status=200, body=b"abcde"),
    case("answer over the limit", f"do=large&value={RESULT_LIMIT + 1}", "result_too_large", detail=str(RESULT_LIMIT)),
    case("answer at the limit", f"do=large&value={RESULT_LIMIT}", "answered", status=200, body=None),
    case("time-out", "do=sleep&value=30", "timeout", detail="within 1 s", timeout=1),
    case("streams closed, then an answer", "do=shut-streams", "answered", status=200),
    case("image missing", "", "image_unavailable", detail="cannot be pulled", image=MISSING_IMAGE),
    case("image without a command", "", "crash", detail="command", image=NO_COMMAND_IMAGE),
    case("image with a wrong command", "", "crash", detail="code 127", image=WRONG_COMMAND_IMAGE),
]

JOB = [
    case("exit 0", "do=exit&value=0", "answered", status=200, exit_code=0),
    case("exit 3", "do=exit&value=3", "answered", detail="code 3", status=500, exit_code=3),
    case("exit 255", "do=exit&value=255", "answered", status=500, exit_code=255),
    case("signal", "do=signal&value=SIGSEGV", "crash", detail="SIGSEGV", exit_code=139),
    case("killed by itself", "do=signal&value=SIGKILL", "crash", detail="SIGKILL", exit_code=137),
    case("out of memory", "do=memory", "oom", detail="64 MiB"),
    case("time-out", "do=sleep&value=30", "timeout", detail="within 1 s", timeout=1),
    case("result over the limit", "do=large&value=20", "result_too_large", detail=str(RESULT_LIMIT)),
    case("input not read", "do=no-stdin", "answered", status=200),
    case("image with an entry point", "do=exit&value=0", "answered", status=200, image=ENTRYPOINT_IMAGE),
    case("image missing", "", "image_unavailable", image=MISSING_IMAGE),
]


def _is_as_expected(ran: Ran, ending: str, detail: str, expected: dict[str, Any]) -> Outcome:
    outcome = ran.outcome
    assert outcome.ending == ending, outcome
    assert detail in outcome.detail
    for name, value in expected.items():
        assert getattr(outcome, name) == value, outcome
    assert (ran.body_path is not None) == (outcome.body is None)
    return outcome


@pytest.mark.parametrize(("query", "ending", "detail", "expected", "changes"), HTTP)
async def test_http(
    call: Caller, *, query: str, ending: str, detail: str, expected: dict[str, Any], changes: dict[str, Any]
) -> None:
    """Each ending is told apart by evidence; then nothing is left of a failed container, and the function works."""
    tested = revision(**changes)
    outcome = _is_as_expected(await call(tested, query), ending, detail, expected)
    kept = outcome.ending == "answered"
    assert len(await call.containers_of(tested)) == (1 if kept else 0)
    if not kept:
        assert outcome.body == b"", outcome
        assert list(call.spool.iterdir()) == []
    await _next_works(call, tested, changes)


@pytest.mark.parametrize(("query", "ending", "detail", "expected", "changes"), JOB)
async def test_job(
    call: Caller, *, query: str, ending: str, detail: str, expected: dict[str, Any], changes: dict[str, Any]
) -> None:
    """The same for jobs: each has a container of its own, and none is left."""
    tested = revision(mode="job", **changes)
    outcome = _is_as_expected(await call(tested, query, b"x" * 3_000_000), ending, detail, expected)
    if outcome.ending == "answered":
        assert dict(outcome.headers)["X-Exit-Code"] == str(outcome.exit_code)
    assert await call.containers_of(tested) == []
    if "image" not in changes or changes["image"] == ENTRYPOINT_IMAGE:
        again = await call(tested, "do=echo", b"next")
        assert (again.outcome.status, json.loads(_line(again, 1))["input"]) == (200, "next")


def _line(ran: Ran, number: int) -> bytes:
    assert ran.outcome.body is not None
    return ran.outcome.body.splitlines()[number]


async def _next_works(call: Caller, tested: Revision, changes: dict[str, Any]) -> None:
    """The next invocation of the function works, or ends the same where the function cannot work at all."""
    if set(changes) & {"image", "env"} or "500" in tested.ready_path:
        return
    after = (await call(tested, "do=echo&value=%41b", b"body")).outcome
    assert (after.ending, after.status) == ("answered", 200)


async def test_killed_from_outside(call: Caller, client: Any) -> None:
    """A container that somebody else kills is not held against the function; the engine's events are the evidence."""
    tested, heard = revision(), Heard()
    running = asyncio.create_task(call(tested, "do=sleep&value=30", heard=heard))
    await heard.until(lambda heard: ("stdout", b"about to sleep") in heard.lines)
    [name] = await call.containers_of(tested)
    await asyncio.to_thread(client.kill, name)
    outcome = (await running).outcome
    assert (outcome.ending, outcome.exit_code) == ("external_kill", 137)
    assert await call.containers_of(tested) == []


async def test_removed_from_outside(call: Caller, client: Any) -> None:
    """So is one that somebody else removes."""
    tested, heard = revision(mode="job"), Heard()
    running = asyncio.create_task(call(tested, "do=sleep&value=30", heard=heard))
    await heard.until(lambda heard: bool(heard.lines))
    [name] = await call.containers_of(tested)
    await asyncio.to_thread(client.remove_container, name, force=True)
    assert (await running).outcome.ending == "external_kill"


@pytest.mark.parametrize("mode", ["http", "job"])
@pytest.mark.parametrize("stubborn", [False, True])
async def test_cancelled_while_it_runs(call: Caller, mode: str, stubborn: bool) -> None:
    """A cancelled function gets a signal, time to obey, and then the kill; its log is kept."""
    tested, heard = revision(mode=mode, env={"STUBBORN": "1"} if stubborn else {}), Heard()
    invocation = call.prepare(tested, "do=sleep&value=30", heard=heard)
    running = asyncio.create_task(invocation.run())
    await heard.until(lambda heard: bool(heard.lines))
    invocation.stop("cancelled")
    async with asyncio.timeout(5):
        result = await running
    assert isinstance(result, Ran)
    assert result.outcome.ending == "cancelled"
    assert result.outcome.log.head
    assert await call.containers_of(tested) == []


@pytest.mark.parametrize(("stubborn", "grace"), [(False, 5), (True, 1)])
async def test_the_time_is_up(call: Caller, stubborn: bool, grace: int) -> None:
    """A function whose time is up is told to end, has its own grace to do so, and its log is kept to the end."""
    tested = revision(timeout=1, grace=grace, env={"STUBBORN": "1"} if stubborn else {})
    outcome = (await call(tested, "do=sleep&value=30")).outcome
    assert outcome.ending == "timeout"
    assert outcome.log.head == b"about to sleep\ntold to end\n"
    assert (outcome.spans.running >= 1000 * (1 + grace)) is stubborn


async def test_the_operator_bounds_the_grace(call: Caller) -> None:
    """A function cannot hold up its end for longer than the node allows, which is a second here."""
    tested, heard = revision(grace=300, env={"STUBBORN": "1"}), Heard()
    invocation = call.prepare(tested, "do=sleep&value=30", heard=heard)
    running = asyncio.create_task(invocation.run())
    await heard.until(lambda heard: bool(heard.lines))
    invocation.stop("cancelled")
    async with asyncio.timeout(10):
        assert isinstance(await running, Ran)


@pytest.mark.parametrize("reason", ["drained", "stopped_by_owner"])
async def test_stopped_while_it_runs(call: Caller, reason: StopReason) -> None:
    """A task that the node stops goes back and counts as started, unless its answer comes within the grace."""
    tested, heard = revision(timeout=60, grace=3, env={"STUBBORN": "1"}), Heard()
    invocation = call.prepare(tested, "do=sleep&value=30", heard=heard)
    assert invocation.time_left() is None, "nobody can tell before it runs"
    running = asyncio.create_task(invocation.run())
    await heard.until(lambda heard: bool(heard.lines))
    left = invocation.time_left()
    assert left is not None
    assert 50 < left < 60 + 3
    invocation.stop(reason)
    assert await running == GaveBack(reason, started=True)

    invocation = call.prepare(tested, "do=sleep&value=0.5", heard=(again := Heard()))
    running = asyncio.create_task(invocation.run())
    await again.until(lambda heard: bool(heard.lines))
    invocation.stop(reason)
    result = await running
    assert isinstance(result, Ran)
    assert result.outcome.body == b"slept"


async def test_stopped_before_it_began(call: Caller) -> None:
    """A task that is stopped while its container starts leaves nothing, and counts as not started."""
    tested, heard = revision(env={"START": "never"}), Heard()
    invocation = call.prepare(tested, heard=heard)
    running = asyncio.create_task(invocation.run())
    await heard.until(lambda heard: "starting" in heard.phases)
    invocation.stop("stale")
    assert await running == GaveBack("stale", started=False)
    assert await call.containers_of(tested) == []


@pytest.mark.parametrize("trouble", [EngineError(500, "no"), RuntimeError("a mistake of ours")])
async def test_what_fails_for_no_known_reason(
    call: Caller, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    """An attempt that fails by the engine's refusal, or by our own fault, counts: it must not go round for ever."""

    async def fail(*_: object) -> None:
        raise trouble

    monkeypatch.setattr(call.host.engine, "create", fail)
    assert (await call.gives_back(revision())).started


@pytest.mark.parametrize("mode", ["http", "job"])
@pytest.mark.parametrize(
    ("call_of_engine", "trouble", "started"),
    [
        ("create", EngineUnavailable("no answer"), False),
        ("attach", EngineUnavailable("no answer"), False),
        ("start", NotAsked("no connection"), False),
        ("start", EngineUnavailable("no answer"), True),
    ],
)
async def test_what_the_engine_never_began_is_no_attempt(
    call: Caller, monkeypatch: pytest.MonkeyPatch, *, mode: str, call_of_engine: str, trouble: Exception, started: bool
) -> None:
    """Where the engine is lost before it was told to start the function, the function cannot have been reached.

    A server sees nothing before its request comes, whatever became of the start.
    """

    async def fail(*_: object, **__: object) -> None:
        raise trouble

    monkeypatch.setattr(call.host.engine, call_of_engine, fail)
    back = await call.gives_back(revision(mode=mode))
    assert back == GaveBack("engine_lost", started=started and mode == "job")


async def test_a_signal_does_not_wait(call: Caller) -> None:
    """A cancel reaches the function at once, also while the engine is busy with as many slow calls as there may be."""
    tested, heard = revision(), Heard()
    invocation = call.prepare(tested, "do=sleep&value=30", heard=heard)
    running = asyncio.create_task(invocation.run())
    await heard.until(lambda heard: bool(heard.lines))
    container = invocation._execution.container
    assert container is not None
    assert container.door is not None
    turn = call.host.engine._given._turn
    for _ in range(CALLS):
        await turn.acquire()
    try:
        invocation.stop("cancelled")
        async with asyncio.timeout(1):
            while await container.door.accepts():
                await asyncio.sleep(0.02)
    finally:
        for _ in range(CALLS):
            turn.release()
    result = await running
    assert isinstance(result, Ran)
    assert result.outcome.ending == "cancelled"


async def test_the_caller_goes_away(call: Caller) -> None:
    """Where the task that runs the invocation is cancelled, the container ends too."""
    tested, heard = revision(), Heard()
    running = asyncio.create_task(call(tested, "do=sleep&value=30", heard=heard))
    await heard.until(lambda heard: bool(heard.lines))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await call.containers_of(tested) == []


async def test_large_bodies_go_by_file(call: Caller, tmp_path: Path) -> None:
    """An answer over the inline limit is in a file, with its size and hash; so may be the input."""
    tested = revision()
    inline = await call(tested, f"do=large&value={INLINE_LIMIT}")
    assert inline.body_path is None
    assert inline.outcome.body is not None
    spooled = await call(tested, f"do=large&value={INLINE_LIMIT + 1}")
    assert spooled.body_path is not None
    assert spooled.body_path.read_bytes() == b"x" * (INLINE_LIMIT + 1) == b"x" * spooled.outcome.body_size
    sent = tmp_path / "input"
    sent.write_bytes(b"in" * 200_000)
    echoed = await call(tested, "do=echo", sent)
    assert echoed.body_path is not None
    seen = json.loads(echoed.body_path.read_bytes())
    assert seen["body"] == "in" * 200_000
