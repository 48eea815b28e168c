"""An engine that is killed, restarted, frozen or gone, while functions run: a real one, of the tests' own."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
import psutil
import pytest

from agent import engine_watch
from agent.availability import Availability
from agent.containers.host import ContainerHost
from agent.engine_watch import EngineWatch
from agent.invocation import GaveBack, Ran
from agent.vitals import Vitals
from tests.contract.containers.calls import IMAGE, Caller, Heard, eventually, revision, running_host
from tests.second_engine import SecondEngine, needs_second_engine

pytestmark = [
    pytest.mark.engine,
    pytest.mark.usefixtures("images"),
    # The docker library leaves a socket unclosed whose connection is refused, to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    needs_second_engine,
]


@pytest.fixture(scope="module")
def engine(client: docker.APIClient, images: None) -> Iterator[SecondEngine]:
    engine = SecondEngine()
    try:
        engine.start(live_restore=True)
        engine.load(client.get_image(IMAGE))
        engine.end(signal.SIGTERM)
        yield engine
    finally:
        engine.remove()
        gc.collect()


class Watched:
    """A host with its watch, on the second engine."""

    def __init__(self, host: ContainerHost, spool: Path) -> None:
        self.host = host
        self.call = Caller(host, spool)
        self.availability = Availability({"engine": "not found yet"}, lambda: None)
        self.watch = EngineWatch(host, host.image_store.refresh, self.availability, Vitals(), lambda: 0.1)
        self._task: asyncio.Task[Any] | None = None

    async def start(self) -> None:
        found = asyncio.Event()
        self._task = asyncio.create_task(self.watch.run(found.set))
        await found.wait()
        await self.until_available(True)

    async def stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.host.stop()

    async def until_available(self, available: bool) -> None:
        async def so() -> bool:
            return self.availability.available is available

        await eventually(so, within=20)

    def begin(self, query: str, **changes: object) -> tuple[asyncio.Task[Any], Heard]:
        heard = Heard()
        invocation = self.call.prepare(revision(timeout=30, **changes), query, b"input", heard=heard)
        return asyncio.create_task(invocation.run()), heard


@pytest.fixture
async def start(
    engine: SecondEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> AsyncIterator[Any]:
    """Starts the second engine, and a host on it."""
    monkeypatch.setenv("DOCKER_HOST", engine.address)
    monkeypatch.setattr(engine_watch, "AGAIN_SECONDS", 0.5)
    monkeypatch.setattr(engine_watch, "ANSWER_SECONDS", 1.0)
    watched: list[Watched] = []

    async def start(live_restore: bool) -> Watched:
        await asyncio.to_thread(engine.start, live_restore=live_restore)
        host = running_host(reach="namespace", marks=tmp_path / "marks").host
        watched.append(Watched(host, tmp_path))
        await watched[0].start()
        return watched[0]

    yield start
    await watched[0].stop()
    await asyncio.to_thread(engine.end, signal.SIGTERM)
    gc.collect()


def go_on(job: set[psutil.Process]) -> None:
    """Tell the processes of a job that stands still to go on to its end."""
    for process in job:
        with suppress(psutil.NoSuchProcess):  # an init passes it on to a child, which may be gone already
            process.send_signal(signal.SIGUSR1)


async def heard_line(heard: Heard, words: bytes) -> None:
    await heard.until(lambda heard: any(words in line for _, line in heard.lines))


async def test_the_canary_leaves_the_engine_as_it_was(start: Any, engine: SecondEngine) -> None:
    """Containers, images with all their layers, networks and volumes of the whole engine are the same as before."""
    node = await start(live_restore=False)

    def contents() -> list[Any]:
        with docker.APIClient(engine.address, version="1.41") as client:
            return [
                sorted(each["Id"] for each in client.containers(all=True)),
                sorted(each["Id"] for each in client.images(all=True)),
                sorted(each["Id"] for each in client.networks()),
                client.volumes()["Volumes"] or [],
                client.df()["LayersSize"],
            ]

    before = await asyncio.to_thread(contents)
    report = await node.host.canary()
    assert (report.problem, report.failed) == ("", "")
    assert await asyncio.to_thread(contents) == before


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
async def test_restart_with_live_restore(start: Any, engine: SecondEngine, sign: signal.Signals) -> None:
    """Functions go on while the engine is restarted: calls answer, jobs lose no byte, warm ones stay warm.

    A job that ends in between has no answer, since what it wrote last was kept by nobody.
    """
    node = await start(live_restore=True)
    warm = revision()
    pid = json.loads((await node.call(warm)).outcome.body)["pid"]
    call, call_heard = node.begin("do=sleep&value=5", mode="http")
    await heard_line(call_heard, b"about to sleep")
    servers = set(await asyncio.to_thread(engine.functions))
    job, job_heard = node.begin("do=slowly&value=25", mode="job")
    await heard_line(job_heard, b"begun with 5 bytes")
    seen = set(await asyncio.to_thread(engine.functions)) - servers
    unseen, unseen_heard = node.begin("do=slowly&value=25", mode="job")
    await heard_line(unseen_heard, b"begun with 5 bytes")
    alone = set(await asyncio.to_thread(engine.functions)) - servers - seen
    await asyncio.to_thread(engine.end, sign)
    await node.until_available(False)
    await asyncio.to_thread(go_on, alone)
    assert (await asyncio.to_thread(psutil.wait_procs, alone, 10))[1] == []
    assert "engine" in node.availability.reason.lower()
    during = await node.call(warm)  # it needs no engine
    assert json.loads(during.outcome.body)["pid"] == pid
    await asyncio.to_thread(engine.start, live_restore=True)
    await node.until_available(True)
    await asyncio.to_thread(go_on, seen)
    answered, ended = await call, await job
    assert isinstance(answered, Ran), answered
    assert answered.outcome.body == b"slept"
    assert isinstance(ended, Ran), ended
    assert await unseen == GaveBack("engine_lost", started=True), "its last words reached nobody"
    long = b"long" * 10_000
    assert ended.outcome.body == b"::progress::99\nfirst\n\x00\xff\r\n\n" + long + b"\nlast, without newline"
    assert ended.outcome.log.head.count(b"hello from the log") == 1
    for container in list(node.host.pool._all.values()):
        await container.in_sight.wait()

    async def is_heard_again() -> bool:
        # It was silent in its first task, so that its output is not waited for: it may come after the answer.
        again = await node.call(warm, "do=print&value=3")
        assert not again.outcome.cold
        return b"plain words" in again.outcome.log.head

    await eventually(is_heard_again)


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
async def test_restart_without_live_restore(start: Any, engine: SecondEngine, sign: signal.Signals) -> None:
    """The engine's end takes its containers with it; that is not held against the functions, and work goes on after."""
    node = await start(live_restore=False)
    warm = revision(grace=1)
    await node.call(warm)
    call, call_heard = node.begin("do=sleep&value=25", mode="http")
    job, job_heard = node.begin("do=sleep&value=25", mode="job")
    await heard_line(call_heard, b"about to sleep")
    await heard_line(job_heard, b"hello from the log")
    await asyncio.to_thread(engine.end, sign)
    await node.until_available(False)
    await asyncio.to_thread(engine.start, live_restore=False)
    await node.until_available(True)
    lost = GaveBack("engine_lost", started=True)
    assert (await call, await job) == (lost, lost)
    again = await node.call(warm)
    assert again.outcome.cold
    await node.host.pool.settled()
    found = await node.host.engine.containers(f"fernd.node={node.host._node_id}")
    assert {each.name for each in found} == node.host.pool.names()


async def test_frozen_engine(start: Any, engine: SecondEngine) -> None:
    """An engine that hangs makes the node decline, and nothing that runs is lost or ends by it."""
    node = await start(live_restore=False)
    warm = revision()
    await node.call(warm)
    call, heard = node.begin("do=sleep&value=3", mode="http")
    await heard_line(heard, b"about to sleep")
    engine.send(signal.SIGSTOP)
    try:
        node.host.in_doubt.set()
        await node.until_available(False)
        assert not (await node.call(warm)).outcome.cold
        answered = await call
    finally:
        engine.send(signal.SIGCONT)
    assert isinstance(answered, Ran), answered
    assert answered.outcome.body == b"slept"
    await node.until_available(True)
    assert not (await node.call(warm)).outcome.cold


async def test_engine_that_stays_away(start: Any, engine: SecondEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some patience what ran on an engine that is gone is given back as lost."""
    monkeypatch.setattr("agent.containers.container.ENGINE_PATIENCE", 1.0)
    node = await start(live_restore=False)
    call, call_heard = node.begin("do=sleep&value=25", mode="http")
    job, job_heard = node.begin("do=sleep&value=25", mode="job")
    await heard_line(call_heard, b"about to sleep")
    await heard_line(job_heard, b"hello from the log")
    await asyncio.to_thread(engine.end, signal.SIGKILL)
    lost = GaveBack("engine_lost", started=True)
    async with asyncio.timeout(10):
        assert (await call, await job) == (lost, lost)
    assert not node.availability.available
    await asyncio.to_thread(engine.start, live_restore=False)
    await node.until_available(True)
    await node.call(revision())
