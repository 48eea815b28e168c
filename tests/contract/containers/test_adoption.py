"""What becomes of the containers of an agent that was killed, on the real engine."""

from __future__ import annotations

import asyncio
import json
import secrets
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest

from agent.containers.host import ContainerHost
from agent.containers.orphans import remove_orphans
from agent.containers.spec import ContainerSpec, EngineTraits, arguments
from agent.invocation import GaveBack, Invocation, Ran
from agent.protocol import Offer, Revision
from tests.contract.containers.calls import (
    IMAGE,
    RESULT_LIMIT,
    Caller,
    Heard,
    eventually,
    offer,
    revision,
    running_host,
)

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("images")]

Start = Callable[..., Awaitable[ContainerHost]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts hosts of one node, one after the other."""
    node_id = str(uuid.uuid4())
    hosts: list[ContainerHost] = []

    async def start(**config: Any) -> ContainerHost:
        host = running_host(node_id=node_id, marks=tmp_path / "marks", **config).host
        hosts.append(host)
        await host.start()
        return host

    yield start
    await hosts[-1].stop()


async def crash(host: ContainerHost, *work: asyncio.Task[Any]) -> None:
    """Let a host be gone, as its process would be: connections close, and nothing is said to the engine."""
    assert host._upkeep is not None
    host._upkeep.cancel()

    async def nothing(*_: object) -> None:
        return

    for change in ("remove", "kill", "pause", "unpause", "create", "start"):
        setattr(host.engine, change, nothing)
    for name in list(host.marks._soon):
        host.marks._cancel(name)
    for change in ("mark", "mark_soon", "unmark"):
        setattr(host.marks, change, lambda _: None)
    for task in work:
        task.cancel()
    await asyncio.gather(*work, return_exceptions=True)
    for container in host.pool._all.values():
        await container.close()
    await host.engine.close()


async def marked(host: ContainerHost) -> None:
    """Wait until a job has its input, or a server has been idle for a moment."""
    async with asyncio.timeout(20):
        while not host.marks.names():
            await asyncio.sleep(0.01)


def begin(host: ContainerHost, given: Offer, spool: Path, heard: Heard | None = None, **more: Any) -> Invocation:
    return Invocation(given, more.pop("body", b""), host, heard or Heard(), spool, RESULT_LIMIT, **more)


async def present(client: docker.APIClient, of: Revision) -> set[str]:
    found = await asyncio.to_thread(client.containers, all=True, filters={"label": [f"fernd.function={of.function}"]})
    return {each["Names"][0].lstrip("/") for each in found}


def body_of(ran: Any) -> bytes:
    assert isinstance(ran, Ran), ran
    assert ran.outcome.body is not None, ran.outcome
    return ran.outcome.body


@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize("way", ["namespace", "bridge"])
async def test_a_warm_container_is_adopted(start: Start, tmp_path: Path, client: Any, paused: bool, way: str) -> None:
    """It serves the next task of its revision after a crash, its output is heard, and it is removed at the end."""
    host, tested = await start(reach=way), revision()
    pid = json.loads(body_of(await Caller(host, tmp_path)(tested)))["pid"]
    [name] = await present(client, tested)
    await marked(host)
    if paused:
        client.pause(name)
    await crash(host)
    host = await start(reach=way)
    assert host.warm() == [tested.key]
    heard = Heard()
    async with asyncio.timeout(20):
        # Output and answer come on two ways; on a slow machine the output of one call may come too late.
        while ("stdout", b"plain words") not in heard.lines:
            again = await Caller(host, tmp_path)(tested, "do=print&value=30", heard=heard)
            assert not again.outcome.cold
    assert json.loads(body_of(await Caller(host, tmp_path)(tested)))["pid"] == pid
    await host.stop()
    assert await present(client, tested) == set()


async def test_a_busy_container_is_not_adopted(start: Start, tmp_path: Path, client: Any) -> None:
    """One that was asked something when the agent died is removed, also if it was warm before."""
    host, tested = await start(), revision()
    call = Caller(host, tmp_path)
    await call(tested)
    await marked(host)
    heard = Heard()
    running = asyncio.create_task(call(tested, "do=sleep&value=30", heard=heard))
    await heard.until(lambda heard: bool(heard.lines))
    await crash(host, running)
    assert len(await present(client, tested)) == 1
    host = await start()
    assert host.warm() == []
    assert await present(client, tested) == set()


async def test_a_warm_container_of_another_runtime(start: Start, tmp_path: Path, client: Any) -> None:
    """One by the engine's default is adopted where that is wanted by its name, and none that is to have another one."""
    host, tested = await start(), revision()
    await Caller(host, tmp_path)(tested)
    await marked(host)
    await crash(host)
    host = await start(runtime="runc")
    assert host.warm() == [tested.key]
    await marked(host)
    await crash(host)
    host = await start(runtimes=[f"function {tested.function} = io.containerd.runc.v2"])
    assert host.warm() == []
    assert await present(client, tested) == set()


async def test_after_another_boot_nothing_is_adopted(
    start: Start, tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mark of before a reboot says nothing; what it marks is removed, and so is the mark."""
    host, tested = await start(), revision()
    await Caller(host, tmp_path)(tested)
    await marked(host)
    await crash(host)
    monkeypatch.setattr("agent.containers.marks.BOOT_ID", tmp_path / "no-such-file")
    host = await start()
    assert await present(client, tested) == set()
    assert [file for file in (tmp_path / "marks").rglob("*") if file.is_file()] == []
    await Caller(host, tmp_path)(tested)


async def test_a_running_job_goes_on(start: Start, tmp_path: Path, client: Any) -> None:
    """A job that runs through a crash of the agent ends once, with all of its output from before and after."""
    host, tested = await start(), revision(mode="job", timeout=20)
    given, heard = offer(tested, "do=slowly&value=2"), Heard()
    running = asyncio.create_task(begin(host, given, tmp_path, heard, body=b"input").run())
    await heard.until(lambda heard: ("stderr", b"begun with 5 bytes") in heard.lines)
    before = await present(client, tested)
    await marked(host)
    await crash(host, running)
    host = await start()
    assert await present(client, tested) == before
    assert host.readopt(given)
    assert not host.readopt(given)
    heard = Heard()
    ran = await begin(host, given, tmp_path, heard, readopt=True).run()
    assert body_of(ran) == b"::progress::99\nfirst\n\x00\xff\r\n\n" + b"long" * 10_000 + b"\nlast, without newline"
    assert isinstance(ran, Ran)
    assert (ran.outcome.status, ran.outcome.exit_code, ran.outcome.ending) == (200, 0, "answered")
    assert ran.outcome.spans.running >= 2000
    assert (b"hello from the log") in ran.outcome.log.head
    assert heard.phases[0] == "running"
    await host.pool.settled()
    assert await present(client, tested) == set()


async def test_a_job_that_ended_meanwhile(start: Start, tmp_path: Path, client: Any) -> None:
    """A job that ended while there was no agent is answered as it ended."""
    host, tested = await start(), revision(mode="job", timeout=20)
    given, heard = offer(tested, "do=slowly&value=1&exit=3"), Heard()
    running = asyncio.create_task(begin(host, given, tmp_path, heard).run())
    await heard.until(lambda heard: any(b"begun" in line for _, line in heard.lines))
    await marked(host)
    await crash(host, running)
    [name] = await present(client, tested)
    await asyncio.to_thread(client.wait, name, timeout=20)
    host = await start()
    assert host.readopt(given)
    ran = await begin(host, given, tmp_path, readopt=True).run()
    assert isinstance(ran, Ran)
    assert (ran.outcome.status, ran.outcome.exit_code) == (500, 3)
    assert 1000 <= ran.outcome.spans.running < 2000


async def test_the_timeout_of_a_job_goes_on(start: Start, tmp_path: Path) -> None:
    """The time without an agent counts: a job that is readopted gets what is left of its timeout."""
    host, tested = await start(), revision(mode="job", timeout=3)
    given, heard = offer(tested, "do=sleep&value=60"), Heard()
    running = asyncio.create_task(begin(host, given, tmp_path, heard).run())
    await heard.until(lambda heard: bool(heard.lines))
    await marked(host)
    await crash(host, running)
    host = await start()
    assert host.readopt(given)
    async with asyncio.timeout(3):
        ran = await begin(host, given, tmp_path, readopt=True).run()
    assert isinstance(ran, Ran)
    assert ran.outcome.ending == "timeout"
    assert ran.outcome.spans.running >= 3000


async def test_a_job_without_its_whole_input(start: Start, tmp_path: Path, client: Any) -> None:
    """A job whose input ended with the agent is removed: what it would answer would not be true."""
    host, tested = await start(), revision(mode="job", timeout=20)
    given, heard = offer(tested, "do=sleep&value=30"), Heard()  # it does not read
    running = asyncio.create_task(begin(host, given, tmp_path, heard, body=b"x" * 4_000_000).run())
    await heard.until(lambda heard: bool(heard.lines))
    await crash(host, running)
    host = await start()
    assert not host.readopt(given)
    assert await present(client, tested) == set()


async def test_a_job_that_was_told_to_end(start: Start, tmp_path: Path, client: Any) -> None:
    """A job that was signalled for a cancel before the crash is not taken for one that ended by itself."""
    host, tested = await start(stop_grace_max=30.0), revision(mode="job", timeout=20)
    given, heard = offer(tested, "do=stubborn"), Heard()
    invocation = begin(host, given, tmp_path, heard)
    running = asyncio.create_task(invocation.run())
    await heard.until(lambda heard: ("stderr", b"ready") in heard.lines)
    invocation.stop("cancelled")
    await heard.until(lambda heard: ("stderr", b"told to end") in heard.lines)
    await crash(host, running)
    host = await start()
    assert not host.readopt(given)
    assert await present(client, tested) == set()


async def test_a_readopted_job_can_be_cancelled(start: Start, tmp_path: Path) -> None:
    """A job that goes on after a crash hears a cancel like any other."""
    host, tested = await start(), revision(mode="job", timeout=20)
    given, heard = offer(tested, "do=sleep&value=30"), Heard()
    running = asyncio.create_task(begin(host, given, tmp_path, heard).run())
    await heard.until(lambda heard: bool(heard.lines))
    await marked(host)
    await crash(host, running)
    host = await start()
    assert host.readopt(given)
    invocation = begin(host, given, tmp_path, heard := Heard(), readopt=True)
    running = asyncio.create_task(invocation.run())
    await heard.until(lambda heard: bool(heard.lines))
    invocation.stop("stale")
    assert await running == GaveBack("stale", started=True)


async def test_a_readopted_job_that_is_gone(start: Start, tmp_path: Path, client: Any) -> None:
    """A job that somebody removed after it was claimed is given back as started."""
    host, tested = await start(), revision(mode="job", timeout=20)
    given, heard = offer(tested, "do=sleep&value=30"), Heard()
    running = asyncio.create_task(begin(host, given, tmp_path, heard).run())
    await heard.until(lambda heard: bool(heard.lines))
    await marked(host)
    await crash(host, running)
    host = await start()
    assert host.readopt(given)
    client.remove_container(next(iter(await present(client, tested))), force=True)
    assert await begin(host, given, tmp_path, readopt=True).run() == GaveBack("engine_lost", started=True)
    assert not host.readopt(offer(tested))


# Orphans ------------------------------------------------------------------------------------------


async def test_gc_lists_and_removes(start: Start, tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection finds containers, stopped ones too, networks, volumes and marks that nobody knows, and only ours."""
    host, tested = await start(), revision()
    await Caller(host, tmp_path)(tested)
    label, others = {"fernd.node": host._node_id}, {"fernd.node": "another"}
    name = f"fernd-test-{secrets.token_hex(4)}"
    spec = ContainerSpec(image=IMAGE, mode="http", node=host._node_id, function="f", revision="f.1")
    stray = client.create_container_from_config(arguments(spec, EngineTraits(cgroup=1, cpus=1, init=False)), name)["Id"]
    try:
        for suffix, labels in (("ours", label), ("other", others)):
            client.create_network(f"{name}-{suffix}", driver="bridge", labels=labels)
            client.create_volume(f"{name}-{suffix}", labels=labels)
        host.marks.mark("fernd-gone")
        young = await host.gc(dry_run=True)
        assert [orphan.kind for orphan in young] == ["file"]  # the others are too young

        async def later() -> float:
            return 1e10

        monkeypatch.setattr(host.engine, "now", later)
        listed = await host.gc(dry_run=True)
        expected = {("container", name), ("network", f"{name}-ours"), ("volume", f"{name}-ours")}
        assert {(orphan.kind, orphan.name) for orphan in listed if orphan.kind != "file"} == expected
        assert await host.gc(dry_run=False) == listed
        assert await host.gc(dry_run=True) == []
        assert len(await present(client, tested)) == 1
        assert client.networks(names=[f"{name}-other"])
        client.inspect_volume(f"{name}-other")
    finally:
        with suppress(docker.errors.NotFound):
            client.remove_container(stray, force=True)
        for suffix in ("ours", "other"):
            with suppress(docker.errors.NotFound):
                client.remove_network(f"{name}-{suffix}")
            with suppress(docker.errors.NotFound):
                client.remove_volume(f"{name}-{suffix}")


async def test_a_job_that_nobody_claims_becomes_an_orphan(
    start: Start, tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that is left and not readopted, as where its journal was lost, does not stay for ever."""
    monkeypatch.setattr("agent.containers.host.CLAIM_SECONDS", 0.0)
    monkeypatch.setattr("agent.containers.host.SWEEP_SECONDS", 1.0)
    host, tested = await start(), revision(mode="job", timeout=60)
    heard = Heard()
    running = asyncio.create_task(begin(host, offer(tested, "do=sleep&value=60"), tmp_path, heard).run())
    await heard.until(lambda heard: bool(heard.lines))
    await crash(host, running)
    monkeypatch.setattr("agent.containers.host.remove_orphans", _without_grace)
    await start()

    async def gone() -> bool:
        return await present(client, tested) == set()

    await eventually(gone)


async def _without_grace(*arguments: Any, **more: Any) -> Any:
    return await remove_orphans(*arguments, **{**more, "grace": 0})


async def test_a_stop_leaves_no_mark(start: Start) -> None:
    """Neither of what is known, nor of what an earlier run left and this one had no time to look at."""
    host = await start()
    host.marks.mark("fernd-of-an-earlier-run")
    await host.stop()
    assert host.marks.names() == set()
