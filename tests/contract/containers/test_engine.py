"""One suite over the real engine and the fake one: what the rest of the agent may rely on."""

from __future__ import annotations

import asyncio
import secrets
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agent.containers.engine import Engine, EngineError, EngineUnavailable, Image, Inspection, NotFound
from agent.containers.output import Demultiplexer
from agent.containers.spec import ContainerSpec, EngineTraits, arguments
from tests.contract.containers.calls import IMAGE
from tests.contract.containers.fake_engine import FakeEngine

TRAITS = EngineTraits(cgroup=1, cpus=1, init=True)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.engine)])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    if request.param == "fake":
        engine: Engine = FakeEngine({IMAGE: Image("sha256:1", "", ())})
    else:
        request.getfixturevalue("images")
        engine = Engine()
        await engine.connect()
    yield engine
    await engine.close()


@pytest.fixture
def node() -> str:
    return str(uuid.uuid4())


def name() -> str:
    return f"fernd-test-{secrets.token_hex(4)}"


def shell(node: str, script: str, mode: Any = "http") -> dict[str, Any]:
    """Arguments of a container that runs a shell script."""
    spec = ContainerSpec(
        image=IMAGE,
        mode=mode,
        node=node,
        function="f",
        revision="f.1",
        command=("/bin/sh", "-c", script),
        contract_env={"GIVEN": "from the specification"},
        memory=32,
    )
    return arguments(spec, TRAITS)


async def ended(engine: Engine, container: str) -> Inspection:
    async with asyncio.timeout(10):
        while (found := await engine.inspect(container)).running:
            await asyncio.sleep(0.01)
    return found


async def run(engine: Engine, given: dict[str, Any], stdin: bytes = b"") -> tuple[Inspection, bytes, bytes]:
    """Run a container to its end: how it ended, and what it wrote."""
    container = name()
    await engine.create(container, given)
    try:
        attachment = await engine.attach(container, stdin=bool(stdin))
        await engine.start(container)
        if stdin:
            attachment.writer.write(stdin)
            attachment.writer.write_eof()
        frames, written = Demultiplexer(), {"stdout": b"", "stderr": b""}
        while piece := await attachment.reader.read(1000):
            for stream, payload in frames.feed(piece):
                written[stream] += payload
        attachment.close()
        return await ended(engine, container), written["stdout"], written["stderr"]
    finally:
        await engine.remove(container)


async def test_runs_to_an_end(engine: Engine, node: str) -> None:
    """What a container writes from its first byte on, and its exit code, are seen."""
    found, out, err = await run(engine, shell(node, 'echo "$GIVEN"; echo wrong >&2; exit 3'))
    assert (found.running, found.exit_code, out, err) == (False, 3, b"from the specification\n", b"wrong\n")


async def test_input_is_passed_on_and_closed(engine: Engine, node: str) -> None:
    """Standard input arrives complete, and its end does too."""
    found, out, _ = await run(engine, shell(node, "wc -c", mode="job"), stdin=b"x" * 200_000)
    assert (found.exit_code, out.strip()) == (0, b"200000")


async def test_signals_end_a_container(engine: Engine, node: str) -> None:
    """A signal arrives, is counted, and stands in the exit code; one to a container that ended is passed over."""
    container = name()
    made = await engine.create(container, shell(node, "trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done"))
    attachment = await engine.attach(container)
    await engine.start(container)
    await attachment.reader.readexactly(8)
    assert await engine.signals(made) == 0
    assert not await engine.saw_end(made)
    await engine.kill(container, "SIGTERM")
    assert (await ended(engine, container)).exit_code == 9
    assert await engine.signals(made) == 1
    await engine.kill(container, "SIGTERM")
    attachment.close()
    await engine.remove(container)


async def test_pause_and_unpause(engine: Engine, node: str) -> None:
    """A paused container counts as running and as paused; it can be removed as it is."""
    container = name()
    await engine.create(container, shell(node, "sleep 60"))
    await engine.start(container)
    await engine.pause(container)
    found = await engine.inspect(container)
    assert (found.running, found.paused) == (True, True)
    with pytest.raises(EngineError):
        await engine.pause(container)
    await engine.unpause(container)
    assert not (await engine.inspect(container)).paused
    await engine.pause(container)
    await engine.remove(container)
    with pytest.raises(NotFound):
        await engine.inspect(container)


async def test_removal(engine: Engine, node: str) -> None:
    """Removing what is not there, or was never started, is no error."""
    await engine.remove(name())
    container = name()
    await engine.create(container, shell(node, "true"))
    await engine.remove(container)
    await engine.remove(container)


async def test_lists_by_label(engine: Engine, node: str) -> None:
    """Containers are found by their label, running or not, and no others."""
    mine, other = name(), name()
    await engine.create(mine, shell(node, "true"))
    await engine.create(other, shell(node + "0", "true"))
    found = await engine.containers(f"fernd.node={node}")
    assert [(each.name, each.labels["fernd.revision"]) for each in found] == [(mine, "f.1")]
    await engine.remove(mine)
    await engine.remove(other)


async def test_what_is_not_there(engine: Engine, node: str) -> None:
    """Unknown containers and images are `NotFound`, and a name that is taken is an `EngineError`."""
    for call in (engine.inspect, engine.start, engine.pause, engine.unpause, engine.attach):
        with pytest.raises(NotFound):
            await call(name())
    with pytest.raises(NotFound):
        await engine.image("fernd-test-missing:latest")
    with pytest.raises(NotFound):
        await engine.create(name(), {**shell(node, "true"), "Image": "fernd-test-missing:latest"})
    container = name()
    await engine.create(container, shell(node, "true"))
    with pytest.raises(EngineError):
        await engine.create(container, shell(node, "true"))
    await engine.remove(container)


async def test_images(engine: Engine) -> None:
    """An image that is present can be looked at and is listed."""
    assert (await engine.image(IMAGE)).id.startswith("sha256:")
    assert IMAGE in await engine.images()


async def test_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no engine answers, one sentence says so; a call before that is refused the same way."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    engine = Engine()
    with pytest.raises(EngineUnavailable, match="Docker Engine"):
        await engine.connect()
    with pytest.raises(EngineUnavailable):
        await engine.images()
    monkeypatch.setenv("DOCKER_HOST", "ssh://somewhere")
    with pytest.raises(EngineUnavailable, match="DOCKER_HOST"):
        await engine.connect()
    await engine.close()


# The library leaves the socket of a connection that failed to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("stall", ["", "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"])
async def test_hung_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, stall: str) -> None:
    """An engine that accepts and then hangs costs a caller the time limit, and it says so."""
    monkeypatch.setattr("agent.containers.engine.CALL_SECONDS", 0.3)
    monkeypatch.setattr("agent.containers.engine.START_SECONDS", 1)
    over, done = asyncio.Event(), asyncio.Event()

    async def hang(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(stall.encode())
        await over.wait()
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        done.set()

    server = await asyncio.start_unix_server(hang, tmp_path / "engine.sock")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/engine.sock")
    engine = Engine()
    try:
        with pytest.raises(EngineUnavailable):
            await engine.connect()
    finally:
        over.set()
        await done.wait()
        server.close()
        await engine.close()
