"""The control socket of a real node, asked as `fernd agent status`, `drain` and `gc` ask."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from click.testing import CliRunner, Result
from structlog.testing import capture_logs

from agent import control, metrics_port
from agent.cli.main import fernd
from agent.config import AvailabilityConfig
from agent.control_socket import SOCKET, Command, CommandFailed, NotRunning, ask
from agent.exposition import CONTENT_TYPE
from agent.identity import Identity, save
from agent.invocation import GaveBack, Ran
from agent.journal import Journal
from agent.protocol import CreditNotice, Decline, GiveBack, NodeHeartbeat, Offer, Outcome, OutcomeAck, Spans
from agent.status import CanaryReport, Orphan
from tests.contract.dispatcher_side import NODE_ID, Dispatcher
from tests.contract.node_side import REVISION, Running, StartNode, answered, lease, ready

Serve = Callable[[Running], Any]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The node of a test logs to the stdout that a command's output is taken from."""
    with capture_logs():
        yield


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:
        yield lambda running: stack.enter_async_context(control.serving(tmp_path, running.node))


async def run(directory: Path, *arguments: str) -> Result:
    """Run a command as a user would, in another thread, since it has an event loop of its own."""
    return await asyncio.to_thread(
        CliRunner().invoke, fernd, ["agent", arguments[0], "--data-dir", str(directory), *arguments[1:]]
    )


async def figures(directory: Path) -> dict[tuple[str, str], float]:
    """The figures of a node, by name without its beginning, and by the values of its labels."""
    done = await run(directory, "metrics", "--json")
    assert done.exit_code == 0, done.output
    return {
        (each["name"].removeprefix("fernd_"), "".join(each["labels"].values())): each["value"]
        for each in json.loads(done.output)
    }


async def test_status_tells_all_without_a_network(start: StartNode, serve: Serve, tmp_path: Path) -> None:
    """A node whose dispatcher is unreachable says what it is, what it can take and what it still has to deliver."""
    journal = Journal(tmp_path)
    await journal.open()
    await journal.accept(Offer(1, lease(7), REVISION))
    await journal.finish(answered(lease(7)).outcome, None)
    await journal.close()
    running = start(urls=["http://127.0.0.1:1"])
    await serve(running)
    while running.phase() != "ready":
        await asyncio.sleep(0.01)
    done = await run(tmp_path, "status", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert (found["node"], found["phase"], found["available"]) == (NODE_ID, "ready", True)
    assert (found["connected"], found["lastContact"], found["roundTrip"]) == (False, None, None)
    assert found["permits"]["freeSlots"] == 3
    assert found["spool"]["attempts"] == 2
    assert found["spool"]["bytes"] > 0
    assert {loop["name"]: loop["stalled"] for loop in found["loops"]} == {
        "link": False,
        "engine": False,
        "journal": False,
        "overdue": False,
        "memory": False,
        "owner": False,
    }
    done = await run(tmp_path, "status")
    assert "http://127.0.0.1:1 (not connected)" in done.output
    assert "1 of them finished" in done.output


async def test_status_shows_what_runs(dispatcher: Dispatcher, start: StartNode, serve: Serve, tmp_path: Path) -> None:
    """Each task with its phase and progress, the permits that it holds, and how the line is."""
    running = start()
    await serve(running)
    session = await ready(dispatcher)
    await session.send(Offer(1, lease(1), REVISION))
    function = await running.function()
    function.report.phase("running")
    function.report.percent(42, "some words")
    await session.expect(NodeHeartbeat, lambda message: message.clock_offset is not None)
    found = json.loads((await run(tmp_path, "status", "--json")).output)
    (task,) = found["tasks"]
    assert (task["state"], task["progress"], task["message"]) == ("running", 42, "some words")
    assert task["function"] == REVISION.function
    assert found["permits"] == {
        "freeCpus": 1.5,
        "heldCpus": 0.5,
        "freeMemory": 412,
        "heldMemory": 100,
        "freeSlots": 2,
        "heldSlots": 1,
    }
    assert found["connected"] is True
    assert found["lastContact"] < 15
    assert found["roundTrip"] > 0
    assert "heartbeat" in {loop["name"] for loop in found["loops"]}
    assert "some words" in (await run(tmp_path, "status")).output


async def test_figures_tell_what_was_done(
    dispatcher: Dispatcher, start: StartNode, serve: Serve, tmp_path: Path
) -> None:
    """What ran, what was taken and what not, the permits, the session and the loops, as Prometheus reads them."""
    running = start()
    await serve(running)
    session = await ready(dispatcher)
    of = lease(1)
    await session.send(Offer(1, of, REVISION))
    function = await running.function()
    held = await figures(tmp_path)
    assert (held["node_slots", "free"], held["node_slots", "held"]) == (2, 1)
    assert (held["node_cpus", "held"], held["node_memory_bytes", "held"]) == (0.5, 100 * 1024 * 1024)
    assert held["node_offers_total", "taken"] == 1
    outcome = msgspec.structs.replace(answered(of).outcome, cold=True, spans=Spans(starting=200, running=3))
    function.end(Ran(outcome, None))
    await session.expect(Outcome)
    await session.send(OutcomeAck(of, recorded=True), Offer(2, lease(2), REVISION))
    (await running.function()).end(GaveBack("in words of its own", started=True))
    await session.expect(GiveBack)
    await session.send(Offer(3, lease(3), msgspec.structs.replace(REVISION, mem_size=100_000)))
    await session.expect(Decline)
    found = await figures(tmp_path)
    assert {of: found[of] for of in found if of[0].endswith("_total") and "seconds" not in of[0]} == {
        ("node_offers_total", "taken"): 2,
        ("node_offers_total", "declined"): 1,
        ("node_attempts_ended_total", "answered"): 1,
        ("node_attempts_given_back_total", "other"): 1,
        ("node_starts_total", "cold"): 1,
        ("node_starts_total", "warm"): 0,
        ("node_session_tries_total", ""): 1,
        ("node_sessions_begun_total", ""): 1,
        ("node_engine_failures_total", "refused"): 0,
        ("node_engine_failures_total", "away"): 0,
    }
    assert (found["node_phase_seconds_count", "starting"], found["node_phase_seconds_sum", "starting"]) == (1, 0.2)
    assert (found["node_phase_seconds_count", "pulling"], found["node_phase_seconds_count", "running"]) == (0, 1)
    assert (found["node_available", ""], found["node_connected", ""], found["node_phase_info", "ready"]) == (1, 1, 1)
    assert found["node_loop_idle_seconds", "heartbeat"] < 15
    assert found["node_loop_stalled", "link"] == 0


async def test_a_drained_node_stays_up_and_takes_nothing_new(
    dispatcher: Dispatcher, start: StartNode, serve: Serve, tmp_path: Path
) -> None:
    """What runs is finished and delivered, ``--wait`` returns then, and the dispatcher knows why nothing is taken."""
    running = start()
    await serve(running)
    session = await ready(dispatcher)
    of = lease(1)
    await session.send(Offer(1, of, REVISION))
    function = await running.function()
    function.report.phase("running")
    waiting = asyncio.create_task(run(tmp_path, "drain", "--wait"))
    await session.expect(CreditNotice, lambda message: message.credit.slots == 0)
    await session.expect(NodeHeartbeat, lambda message: message.reason == "drained on the machine itself")
    await session.send(Offer(2, lease(2), REVISION))
    await session.expect(Decline)
    assert function.stopped is None
    function.end(answered(of))
    await session.expect(Outcome)
    assert not waiting.done()
    await session.send(OutcomeAck(of, recorded=True))
    done = await waiting
    assert (done.exit_code, done.output) == (0, "drained: nothing runs, and every outcome is delivered\n")
    assert running.phase() == "draining"
    assert not running.task.done()
    assert session.ws.closed is False


async def test_a_task_that_the_owner_stops_goes_back(
    dispatcher: Dispatcher, start: StartNode, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its work alone is told to end, the dispatcher hears who wanted it, and the node goes on taking work."""
    monkeypatch.setattr("agent.session.HEARTBEAT_SECONDS", 0.1)
    running = start()
    await serve(running)
    session = await ready(dispatcher)
    await session.send(Offer(1, lease(1), REVISION), Offer(2, lease(2), REVISION))
    functions = {each.offer.lease: each for each in [await running.function(), await running.function()]}
    stopped, other = sorted(functions, key=lambda lease: lease.task)
    functions[stopped].seconds_left = 12.34
    shown = json.loads((await run(tmp_path, "status", "--json")).output)["tasks"]
    assert {task["task"]: task["timeLeft"] for task in shown} == {stopped.task: 12.3, other.task: None}
    done = await run(tmp_path, "abort", stopped.task)
    assert (done.exit_code, done.output) == (0, f"task {stopped.task}, attempt 1: stopped and given back\n")
    given_back = await session.expect(GiveBack)
    assert (given_back.lease, given_back.reason, given_back.started) == (stopped, "stopped_by_owner", True)
    assert (given_back.credit.slots, functions[other].stopped) == (2, None)

    functions[other].obeys = False
    aborting = asyncio.create_task(run(tmp_path, "abort", other.task))
    while functions[other].stopped is None:
        await asyncio.sleep(0.01)
    functions[other].end(answered(other))
    assert (await session.expect(Outcome)).lease == other
    assert (await aborting).output.endswith("it came to its own end before it was stopped\n")
    done = await run(tmp_path, "abort", other.task)
    assert (done.exit_code, done.stderr) == (
        1,
        f"error: task {other.task} has ended, and its end waits for the dispatcher\n",
    )
    await session.send(OutcomeAck(other, recorded=True))
    await session.expect(NodeHeartbeat, lambda message: not message.leases)
    assert (await run(tmp_path, "abort", other.task)).stderr == f"error: task {other.task} is not here\n"


async def test_a_task_can_be_stopped_while_the_node_is_cut_off(
    dispatcher: Dispatcher, start: StartNode, serve: Serve, tmp_path: Path
) -> None:
    """Nobody has to be asked, and the dispatcher hears of it as soon as there is one again."""
    running = start()
    await serve(running)
    session = await ready(dispatcher)
    of = lease(1)
    await session.send(Offer(1, of, REVISION))
    function = await running.function()
    await session.ws.close()
    session = await dispatcher.session()  # of a dispatcher that says nothing yet
    done = await run(tmp_path, "abort", of.task)
    said = "stopped; it is given back as soon as there is a dispatcher"
    assert (done.exit_code, done.output) == (0, f"task {of.task}, attempt 1: {said}\n")
    assert function.stopped == "stopped_by_owner"
    await session.welcome()
    assert (await session.expect(GiveBack)).reason == "stopped_by_owner"


async def test_gc_lists_and_removes_what_nobody_needs(
    dispatcher: Dispatcher, start: StartNode, serve: Serve, tmp_path: Path
) -> None:
    """Files of running attempts stay; a dry run changes nothing; an engine that is away is said."""
    running = start()
    await serve(running)
    session = await ready(dispatcher)
    await session.send(Offer(1, lease(1), REVISION))
    await running.function()
    stray, used = tmp_path / "bodies" / f"{9:024x}-1.body", tmp_path / "bodies" / f"{1:024x}-1.body"
    stray.write_bytes(b"x")
    used.write_bytes(b"x")
    running.containers.orphans = [Orphan("container", "fernd-1", "no task")]
    for arguments in (["--dry-run", "--json"], ["--json"]):
        assert stray.exists()
        found = json.loads((await run(tmp_path, "gc", *arguments)).output)
        assert [(orphan["kind"], orphan["name"]) for orphan in found] == [
            ("file", str(stray)),
            ("container", "fernd-1"),
        ]
    assert not stray.exists()
    assert used.exists()
    assert (await run(tmp_path, "gc")).output == "nothing to remove\n"
    running.containers.problem = "the engine is away"
    done = await run(tmp_path, "gc")
    assert (done.exit_code, done.stderr) == (1, "error: the engine is away\n")


async def test_the_socket_is_the_owners_alone_and_outlives_a_crash(
    start: StartNode, serve: Serve, tmp_path: Path
) -> None:
    """One that a crashed agent left is replaced; after the agent's end there is none, and a command says so."""
    (tmp_path / SOCKET).write_bytes(b"")
    running = start(urls=["http://127.0.0.1:1"])
    async with control.serving(tmp_path, running.node):
        assert stat.S_IMODE((tmp_path / SOCKET).stat().st_mode) == 0o600
        await ask(tmp_path, Command("status"))
    assert not (tmp_path / SOCKET).exists()
    with pytest.raises(NotRunning):
        await ask(tmp_path, Command("status"))
    done = await run(tmp_path, "status")
    assert (done.exit_code, done.stderr) == (3, f"error: no agent runs with {tmp_path}\n")


async def test_the_agent_of_fernd_up_is_found_by_the_directory_of_both(start: StartNode, tmp_path: Path) -> None:
    """Whoever names the directory that `fernd up` was given, or gives none to either, reaches its agent."""
    inside = tmp_path / "agent"
    save(inside, Identity(NODE_ID, ["http://127.0.0.1:1"]), "credential")
    running = start(urls=["http://127.0.0.1:1"])
    async with control.serving(inside, running.node):
        done = await run(tmp_path, "status", "--json")
    assert json.loads(done.output)["node"] == NODE_ID


async def test_a_long_path_and_nonsense_do_no_harm(start: StartNode, tmp_path: Path) -> None:
    """A data directory deeper than a socket's address can say works, and what is no command is answered."""
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    running = start(urls=["http://127.0.0.1:1"])
    async with control.serving(deep, running.node):
        with pytest.raises(CommandFailed, match="not a command"):
            await ask(deep, Command("explode"))  # type: ignore[arg-type]
        assert (await ask(deep, Command("status")))["node"] == NODE_ID


async def test_figures_over_a_port(start: StartNode, serve: Serve, tmp_path: Path) -> None:
    """What the command prints, the port answers too; one that is taken keeps no node from working."""
    running = start(urls=["http://127.0.0.1:1"])
    await serve(running)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with metrics_port.serving("127.0.0.1", port, running.node.figures), aiohttp.ClientSession() as http:
        async with http.get(f"http://127.0.0.1:{port}/metrics") as response:
            assert response.headers["Content-Type"] == CONTENT_TYPE
            read = await response.text()
        printed = (await run(tmp_path, "metrics")).output
        assert re.findall("^# TYPE (.*)$", read, re.MULTILINE) == re.findall("^# TYPE (.*)$", printed, re.MULTILINE)
        with capture_logs() as logged:
            async with metrics_port.serving("127.0.0.1", port, running.node.figures):
                pass
        assert [entry["log_level"] for entry in logged] == ["error"]


async def test_the_doctor_lets_the_agent_run_the_canary(
    start: StartNode, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where an agent runs the canary is its: with its rights and its settings."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    running = start(urls=["http://127.0.0.1:1"])
    await serve(running)
    while running.phase() != "ready":
        await asyncio.sleep(0.01)
    for report, state in [
        (CanaryReport("bridge", {"image": 12.0}), "ok"),
        (CanaryReport("namespace", {"image": 12.0}, unbounded=["runsc"]), "warning"),
        (CanaryReport("bridge", {}, "no space left", failed="image"), "failed"),
        (CanaryReport("bridge", skipped="there is no canary for riscv64"), "skipped"),
    ]:
        running.containers.canaries = [report]
        found = json.loads((await run(tmp_path, "doctor", "--json")).output)
        canary = found["checks"][-1]
        assert (canary["check"], canary["state"]) == ("canary", state), canary
        assert (report.problem or report.skipped or "by the agent that runs here") in canary["seen"]


async def test_a_pause_freezes_what_runs_and_outlives_the_agent(
    dispatcher: Dispatcher, start: StartNode, serve: Serve, tmp_path: Path
) -> None:
    """The dispatcher hears why nothing is taken; the pause holds after a restart, until it is ended."""
    running = start()
    await serve(running)
    session = await ready(dispatcher)
    await session.send(Offer(1, lease(1), REVISION))
    function = await running.function()
    function.report.phase("running")
    done = await run(tmp_path, "pause")
    assert (done.exit_code, done.output) == (0, "takes no work: paused on the machine itself\n")
    assert running.containers.wishes == ["thawed", "frozen"]
    beat = await session.expect(NodeHeartbeat, lambda message: message.reason == "paused on the machine itself")
    assert (beat.available, beat.credit.slots, beat.leases) == (False, 0, [function.offer.lease])
    await session.send(Offer(2, lease(2), REVISION))
    assert (await session.expect(Decline)).reason == "paused on the machine itself"
    assert function.stopped is None
    running.node.stop()  # what stands still is not waited for
    await running.ended()
    assert function.stopped == "drained"

    again = start()
    await serve(again)
    session = await dispatcher.welcomed()
    assert session.hello.credit.slots == 0
    done = await run(tmp_path, "pause", "--for", "2h", "--json")
    assert json.loads(done.output)["reason"].startswith("paused on the machine itself until ")
    done = await run(tmp_path, "resume")
    assert (done.exit_code, done.output) == (0, "takes work\n")
    assert again.containers.wishes[-1] == "thawed"
    await session.expect(NodeHeartbeat, lambda message: message.available)


async def test_a_pause_that_is_too_long_for_tasks(
    dispatcher: Dispatcher, start: StartNode, serve: Serve, tmp_path: Path
) -> None:
    """What stands still for longer than the owner's setting is given back, for another node to take."""
    running = start(availability=AvailabilityConfig(pause_max=0))
    await serve(running)
    session = await ready(dispatcher)
    await session.send(Offer(1, lease(1), REVISION))
    function = await running.function()
    await run(tmp_path, "pause")
    assert (await session.expect(GiveBack)).reason == "drained"
    assert function.stopped == "drained"


async def test_the_owners_command_decides(
    dispatcher: Dispatcher, start: StartNode, serve: Serve, tmp_path: Path
) -> None:
    """Its reason is what people see; with ``drain`` what runs may finish; rules can be exchanged while it runs."""
    sun = tmp_path / "sun"
    sun.write_text("")
    asked = ["/bin/sh", "-c", f"test -e {sun} || {{ echo only 12 W from the roof; exit 1; }}"]
    rules = AvailabilityConfig(available_when=asked, available_when_interval=1, settle=0)
    running = start(availability=rules)
    await serve(running)
    session = await ready(dispatcher)
    await session.send(Offer(1, lease(1), REVISION))
    function = await running.function()
    function.report.phase("running")
    sun.unlink()
    await session.expect(NodeHeartbeat, lambda message: message.reason == "only 12 W from the roof")
    assert running.containers.wishes[-1] == "rest without idle ones"
    assert function.stopped is None
    found = json.loads((await run(tmp_path, "status", "--json")).output)
    assert (found["available"], found["reason"]) == (False, "only 12 W from the roof")
    running.node.go_by(AvailabilityConfig())
    await session.expect(NodeHeartbeat, lambda message: message.available)
