"""Large bodies over real HTTP: what breaks goes on where it ended, what is refused ends, and memory stays small."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from agent.bodies import Bodies, BodyUnavailable, Upload
from agent.protocol import OFFSET_HEADER
from tests.contract.dispatcher_side import CREDENTIAL, NODE_ID, Dispatcher
from tests.contract.node_side import lease

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.bodies.full_jitter", lambda failures, _: 0.001 * failures)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield session


@pytest.fixture
def bodies(http: aiohttp.ClientSession, dispatcher: Dispatcher) -> Bodies:
    return Bodies(http, lambda: dispatcher.url, NODE_ID, f"Bearer {CREDENTIAL}")


def result(directory: Path, size: int) -> tuple[Path, int, str]:
    content = os.urandom(size)
    file = directory / "result"
    file.write_bytes(content)
    return file, size, hashlib.sha256(content).hexdigest()


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def serving(handler: Handler) -> TestServer:
    app = web.Application(client_max_size=1024 * MIB)
    app.router.add_route("*", "/{path:.*}", handler)
    server = TestServer(app)
    await server.start_server()
    return server


async def test_an_upload_goes_on_where_it_broke(dispatcher: Dispatcher, bodies: Bodies, tmp_path: Path) -> None:
    """A line that breaks after every megabyte brings the whole over, each byte once."""
    file, size, sha256 = result(tmp_path, 5 * MIB)
    dispatcher.result_cuts = [MIB] * 4
    of = lease()
    assert await bodies.upload(of, file, size, sha256) is Upload.TAKEN
    assert dispatcher.uploads == [0, MIB, 2 * MIB, 3 * MIB, 4 * MIB]
    assert dispatcher.results[of.header()] == file.read_bytes()


async def test_a_result_that_is_there_already_is_not_sent_again(
    dispatcher: Dispatcher, bodies: Bodies, tmp_path: Path
) -> None:
    """An agent that crashed between the upload and the outcome only asks whether the body is whole."""
    file, size, sha256 = result(tmp_path, MIB)
    of = lease()
    await bodies.upload(of, file, size, sha256)
    assert await bodies.upload(of, file, size, sha256) is Upload.TAKEN
    assert dispatcher.uploads == [0, size]


async def test_outages_are_outlasted(dispatcher: Dispatcher, bodies: Bodies, tmp_path: Path) -> None:
    """5xx, 408, 429, redirects and a stranger's 200 are no refusals."""
    file, size, sha256 = result(tmp_path, MIB)
    dispatcher.result_statuses = [500, 502, 503, 408, 429, 302, 200]
    assert await bodies.upload(lease(), file, size, sha256) is Upload.TAKEN


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (400, "stale"),
        (404, "stale"),
        (409, "stale"),
        (410, "stale"),
        (413, "too_large"),
        (401, "not_now"),
        (403, "not_now"),
    ],
)
async def test_a_refusal_ends_an_upload_at_once(
    dispatcher: Dispatcher, bodies: Bodies, tmp_path: Path, status: int, verdict: str
) -> None:
    """Work that is no longer ours does not knock for ever."""
    file, size, sha256 = result(tmp_path, MIB)
    dispatcher.result_statuses = [status]
    assert await bodies.upload(lease(), file, size, sha256) == verdict
    assert dispatcher.uploads == [0]


async def test_damage_on_the_way_is_repaired_and_damage_at_home_is_told(
    dispatcher: Dispatcher, bodies: Bodies, tmp_path: Path
) -> None:
    """What arrived with another hash is sent again from the start, unless the file itself has it."""
    file, size, sha256 = result(tmp_path, MIB)
    of = lease()
    dispatcher.parts[of.header()] = bytes(1000)
    assert await bodies.upload(of, file, size, sha256) is Upload.TAKEN
    assert dispatcher.uploads == [1000, 0]
    with file.open("r+b") as damaged:
        damaged.write(bytes(10))
    assert await bodies.upload(lease(2), file, size, sha256) is Upload.LOST
    os.truncate(file, 10)
    assert await bodies.upload(lease(3), file, size, sha256) is Upload.LOST


async def test_a_connection_that_nothing_goes_through_is_given_up(
    http: aiohttp.ClientSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that stops reading holds an upload up for the time of silence, and no longer."""
    monkeypatch.setattr("agent.bodies.SILENCE_SECONDS", 0.3)
    file, size, sha256 = result(tmp_path, 32 * MIB)
    offsets: list[str] = []
    stalled = asyncio.Event()

    async def handle(request: web.Request) -> web.Response:
        if request.method == "HEAD":
            return web.Response(headers={OFFSET_HEADER: "0"})
        offsets.append(request.headers[OFFSET_HEADER])
        if len(offsets) == 1:
            await stalled.wait()
        stalled.set()
        async for _ in request.content.iter_chunked(MIB):
            pass
        return web.Response(status=204)

    server = await serving(handle)
    try:
        bodies = Bodies(http, lambda: str(server.make_url("")).rstrip("/"), NODE_ID, "Bearer x")
        async with asyncio.timeout(20):
            assert await bodies.upload(lease(), file, size, sha256) is Upload.TAKEN
    finally:
        await server.close()
    assert offsets == ["0", "0"]


async def test_a_fetch_goes_on_where_it_broke(dispatcher: Dispatcher, bodies: Bodies, tmp_path: Path) -> None:
    """Each byte of an input is fetched once, whatever the line does."""
    of = lease()
    dispatcher.inputs[of.task] = os.urandom(5 * MIB)
    dispatcher.input_cuts = [MIB, 100, 0, 2 * MIB]
    await bodies.fetch(of, 5 * MIB, tmp_path / "input")
    assert (tmp_path / "input").read_bytes() == dispatcher.inputs[of.task]


async def test_a_server_without_ranges_is_fetched_from_the_start(http: aiohttp.ClientSession, tmp_path: Path) -> None:
    """What came before is thrown away, not put in front."""
    content, asked = os.urandom(MIB), 0

    async def handle(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        response = web.StreamResponse()
        response.content_length = len(content)
        await response.prepare(request)
        await response.write(content[: MIB // 2])
        if asked == 1:
            assert request.transport is not None
            request.transport.close()
        else:
            await response.write(content[MIB // 2 :])
        return response

    server = await serving(handle)
    try:
        bodies = Bodies(http, lambda: str(server.make_url("")).rstrip("/"), NODE_ID, "Bearer x")
        await bodies.fetch(lease(), MIB, tmp_path / "input")
    finally:
        await server.close()
    assert (tmp_path / "input").read_bytes() == content
    assert asked == 2


@pytest.mark.parametrize("size", [MIB - 1, MIB + 1])
async def test_an_input_of_another_size_is_refused(
    dispatcher: Dispatcher, bodies: Bodies, tmp_path: Path, size: int
) -> None:
    """A function never sees half an input."""
    of = lease()
    dispatcher.inputs[of.task] = bytes(MIB)
    with pytest.raises(BodyUnavailable):
        await bodies.fetch(of, size, tmp_path / "input")


async def test_memory_does_not_grow_with_a_body(http: aiohttp.ClientSession, tmp_path: Path) -> None:
    """64 MiB pass, up and down, with a few pieces in memory at a time."""
    size = 64 * MIB
    piece = bytes(MIB)

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.method == "HEAD":
            return web.Response(headers={OFFSET_HEADER: "0"})
        if request.method == "PUT":
            async for _ in request.content.iter_any():
                pass
            return web.Response(status=204)
        response = web.StreamResponse()
        response.content_length = size
        await response.prepare(request)
        for _ in range(64):
            await response.write(piece)
        return response

    file = tmp_path / "body"
    server = await serving(handle)
    try:
        bodies = Bodies(http, lambda: str(server.make_url("")).rstrip("/"), NODE_ID, "Bearer x")
        tracemalloc.start()
        await bodies.fetch(lease(), size, file)
        assert await bodies.upload(lease(), file, size, "") is Upload.TAKEN
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        await server.close()
    assert peak < 12 * MIB
