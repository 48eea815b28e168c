"""Functions in gVisor's sandbox, by `runsc` as Debian has it, on an engine of the tests' own."""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import docker
import pytest
import pytest_asyncio

from agent.containers.host import ContainerHost
from agent.invocation import Ran
from agent.protocol import Revision
from tests.contract.containers.calls import IMAGE, Caller, Heard, object_id, revision, running_host
from tests.second_engine import SecondEngine, needs_second_engine

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.usefixtures("images"),
    # The docker library leaves a socket unclosed whose connection is refused, to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    needs_second_engine,
    pytest.mark.skipif(not shutil.which("runsc"), reason="needs runsc"),
]

SANDBOX = ["/usr/bin/runsc", "--platform=ptrace", "--network=host"]
TRUSTED = object_id()
"""A function that the operator trusts, and that the rules give the usual runtime."""

UNBOUND = object_id()
"""One that is run by a sandbox without control groups."""


@pytest.fixture(scope="module")
def engine(client: docker.APIClient, images: None) -> Iterator[SecondEngine]:
    engine = SecondEngine({"runsc": SANDBOX, "runsc-unbound": [*SANDBOX, "--ignore-cgroups"]})
    try:
        engine.start(live_restore=False)
        engine.load(client.get_image(IMAGE))
        yield engine
    finally:
        engine.remove()
        gc.collect()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(engine: SecondEngine) -> AsyncIterator[ContainerHost]:
    """A host that runs all functions in the sandbox, but for the one that it trusts."""
    rules = [f"function {UNBOUND} = runsc-unbound", f"function {TRUSTED} = runc"]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DOCKER_HOST", engine.address)
        async with running_host(runtime="runsc", runtimes=rules, reach="namespace", start_timeout=20.0) as host:
            yield host


@pytest.fixture
def call(host: ContainerHost, tmp_path: Path) -> Caller:
    return Caller(host, tmp_path)


async def kernel_of(call: Caller, tested: Revision) -> str:
    """Read the words of the kernel that a function sees."""
    return ((await call(tested, "do=read&value=/proc/version")).outcome.body or b"").decode()


async def pid_of(host: ContainerHost, tested: Revision) -> int:
    (found,) = await host.engine.containers(f"fernd.function={tested.function}")
    return (await host.engine.inspect(found.id)).pid


async def test_who_is_in_the_sandbox(host: ContainerHost, call: Caller) -> None:
    """The rules give a function its runtime: it sees gVisor's kernel, or the machine's where it is trusted."""
    ours = await asyncio.to_thread(Path("/proc/version").read_text)
    assert await kernel_of(call, revision(function=TRUSTED)) == ours
    sandboxed = await kernel_of(call, revision())
    assert sandboxed != ours
    assert sandboxed.startswith("Linux version 4.4.0 ")  # what gVisor says that it is
    assert host.runtimes == ["runsc", "runsc-unbound", "runc"]


async def test_the_canary_goes_by_each_runtime(host: ContainerHost) -> None:
    """Every runtime in use is tried all the way, and the one that makes no control groups is told."""
    report = await host.canary()
    assert (report.problem, report.unbounded) == ("", ["runsc-unbound"])
    steps = [f"{name} {step}" for name in host.runtimes for step in ("start", "reach", "answer", "remove")]
    assert list(report.steps) == ["image", *steps]


async def test_a_server(host: ContainerHost, call: Caller) -> None:
    """It answers, tells its progress, and stays warm; its network is one of its own with nothing in it."""
    tested, heard = revision(), Heard()
    first = await call(tested, "do=print&value=30", heard=heard)
    assert (first.outcome.status, first.outcome.body, first.outcome.cold) == (200, b"printed", True)
    await heard.until(lambda heard: ("stderr", b"to stderr") in heard.lines)
    assert (30, "on the way") in heard.percents
    again = await call(tested, body=b"once more")
    assert (json.loads(again.outcome.body or b"")["body"], again.outcome.cold) == ("once more", False)
    devices = (await asyncio.to_thread(Path(f"/proc/{await pid_of(host, tested)}/net/dev").read_text)).splitlines()
    assert [line.split(":")[0].strip() for line in devices[2:]] == ["lo"]
    refused = await call(tested, "do=connect&value=127.0.0.1:7070")
    assert (refused.outcome.body or b"").startswith(b"refused")


async def test_a_job(call: Caller) -> None:
    """Its input, result, log, progress and exit code are its own."""
    heard = Heard()
    done = (await call(revision(mode="job"), body=b"input", heard=heard)).outcome
    assert (done.status, done.exit_code) == (200, 0)
    assert b'"input": "input"' in (done.body or b"")
    assert (done.log.head, heard.percents) == (b"hello from the log\n", [(10, "begun")])
    failed = (await call(revision(mode="job"), "do=exit&value=7")).outcome
    assert (failed.status, failed.exit_code) == (500, 7)


@pytest.mark.parametrize("mode", ["http", "job"])
async def test_a_timeout_ends_it(call: Caller, mode: str) -> None:
    """What does not end in time is told to, and then killed."""
    tested = revision(mode=mode, timeout=1)
    assert (await call(tested, "do=sleep&value=60")).outcome.ending == "timeout"
    assert await call.containers_of(tested) == []


async def test_memory_has_a_limit(call: Caller) -> None:
    """A sandbox that needs more than its memory is killed, and that is what the outcome says."""
    assert (await call(revision(mode="job"), "do=memory")).outcome.ending == "oom"


async def test_without_control_groups_no_limit_holds(call: Caller) -> None:
    """A sandbox that is told to ignore control groups gives what a function of 64 MiB asks for: hence the warning."""
    done = (await call(revision(function=UNBOUND, mode="job"), "do=hold&value=200")).outcome
    assert (done.status, done.exit_code) == (200, 0)


async def test_it_can_be_frozen(host: ContainerHost, call: Caller) -> None:
    """A sandbox stands still, uses no CPU time meanwhile, and goes on to its answer."""
    tested, heard = revision(timeout=1), Heard()
    work = asyncio.create_task(call.prepare(tested, "do=spin&value=0.5", heard=heard).run())
    await heard.until(lambda heard: bool(heard.lines))
    await host.freeze()
    try:
        before = await _cpu_seconds(host, tested)
        done, _ = await asyncio.wait({work}, timeout=1.2)
        assert not done
        assert await _cpu_seconds(host, tested) - before < 0.1
    finally:
        await host.thaw()
    ran = await work
    assert isinstance(ran, Ran)
    assert (ran.outcome.ending, ran.outcome.body) == ("answered", b"spun")


async def _cpu_seconds(host: ContainerHost, tested: Revision) -> float:
    found = host.cpu_seconds() or {}
    return sum(seconds for name, seconds in found.items() if tested.function in name)
