"""Whatever goes wrong, the caller gets a problem document with a stable code, and nothing more."""

from __future__ import annotations

import asyncio
import hashlib
import select
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from dispatcher import cli
from dispatcher.app import build
from dispatcher.config import DispatcherConfig
from dispatcher.store.sqlite import SqliteStore
from tests.contract.http_api.api import CONFIG, SECONDS, Answer, Api, Node, Serve, whole


async def raw(port: int, *pieces: bytes) -> Answer:
    """Send bytes and read one answer, in whatever way the server ends it."""
    async with asyncio.timeout(SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for piece in pieces:
            writer.write(piece)
        status = int((await reader.readline()).split()[1])
        lines = []
        while (line := (await reader.readline()).decode().strip()) != "":
            name, _, value = line.partition(": ")
            lines.append((name, value))
        headers = aiohttp.web.Response(headers=lines).headers
        body = await reader.readexactly(int(headers["Content-Length"]))
        writer.close()
        await writer.wait_closed()
        return Answer(status, headers, body)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50,
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Many: %b\r\nX-More: %b\r\n\r\n" % (b"x" * 4000, b"x" * 5000),
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 5000 + b"\r\n",
    ],
)
async def test_what_is_not_http_is_answered_with_a_problem(api: Api, request_bytes: bytes) -> None:
    """Garbage, over-long lines, and too many of them are 400, and nothing is logged as an error."""
    with capture_logs() as logs:
        (await raw(api.port, request_bytes)).problem(400, "INVALID")
    assert [entry for entry in logs if entry["log_level"] == "error"] == []


async def test_query_over_the_limit_is_named(api: Api) -> None:
    """A query string that is too long is 400."""
    function_id = await api.function()
    answer = await api("POST", f"/v1/task/{function_id}?" + "x" * 2049)
    assert answer.problem(400, "INVALID")["field"] == "query"
    assert (await api("POST", f"/v1/task/{function_id}?" + "x" * 2048)).status == 201


async def test_query_with_a_fragment_is_refused(api: Api) -> None:
    """What stands behind a # would not reach the function as it was sent."""
    function_id = await api.function()
    request = f"POST /v1/task/{function_id}?a#b HTTP/1.1\r\nHost: x\r\nAuthorization: {api.token}\r\n\r\n"
    (await raw(api.port, request.encode())).problem(400, "INVALID")


async def test_query_in_bare_utf8_is_told_to_be_encoded(api: Api) -> None:
    """A shell's user who types an accent into a URL learns what is wrong with it."""
    request = "POST /v1/task/6405848581b16f7a07cd4c48?name=Zo\u00eb HTTP/1.1\r\nHost: x\r\n\r\n"
    said = (await raw(api.port, request.encode())).problem(400, "INVALID")["detail"]
    assert said == "the path or the query string has a character that must be percent-encoded"


async def test_half_a_request_is_not_waited_for(serve: Serve) -> None:
    """A connection whose request does not come whole is closed."""
    api = await serve(msgspec.structs.replace(CONFIG, server=msgspec.structs.replace(CONFIG.server, keep_alive=0.2)))
    async with asyncio.timeout(SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost:")
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_caller_who_does_not_read_is_cut_off(api: Api, node: Node) -> None:
    """A large result that nobody takes off the wire does not hold the dispatcher for ever."""
    task_id = await api.task(await api.function())
    offer = await node.take()
    proof = {"Authorization": node.credential, "X-Fernd-Lease": offer.lease.header()}
    body = bytes(2 * 1024 * 1024)
    assert (
        await api("PUT", f"/v1/node/{node.id}/task/{task_id}/result", body=body, headers=proof | whole(body))
    ).status == 204
    digest = hashlib.sha256(body).hexdigest()
    await node.finish(offer.lease, status=200, body=None, body_size=len(body), body_sha256=digest)
    request = f"GET /v1/task/{task_id}/result HTTP/1.1\r\nHost: x\r\nAuthorization: {api.token}\r\n\r\n".encode()
    with socket.socket() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(caller, ("127.0.0.1", api.port))
        # Several answers, so that no buffer on the way can hold them all.
        await loop.sock_sendall(caller, request * 20)
        hung_up = select.poll()
        hung_up.register(caller, 0)
        with capture_logs() as logs:
            assert await asyncio.to_thread(hung_up.poll, SECONDS * 1000)
    assert [entry for entry in logs if entry["log_level"] == "error"] == []


async def test_header_that_is_not_utf8_is_named(api: Api) -> None:
    """It could not be carried to a function unchanged."""
    function_id = await api.function()
    answer = await raw(
        api.port,
        f"POST /v1/task/{function_id} HTTP/1.1\r\nHost: x\r\nAuthorization: {api.token}\r\nX-Odd: ".encode(),
        b"\xff\r\n\r\n",
    )
    assert answer.problem(400, "INVALID")["field"] == "X-Odd"


@pytest.mark.parametrize(
    "path", ["/dashboard", "/v1", "/v1/", "/v2/task/list", "/v1/task/list/", "/v1/tasks", "//healthz", "*"]
)
async def test_unknown_paths_are_not_found(api: Api, path: str) -> None:
    """An unknown path is a problem, too, and asks for no token."""
    request = f"{'OPTIONS' if path == '*' else 'GET'} {path} HTTP/1.1\r\nHost: x\r\n\r\n"
    (await raw(api.port, request.encode())).problem(404, "NOT_FOUND")


async def test_wrong_methods_are_told_the_right_ones(api: Api) -> None:
    """405 comes with Allow."""
    answer = await api("PUT", "/v1/task/" + "0" * 24)
    answer.problem(405, "METHOD_NOT_ALLOWED")
    assert answer.headers["Allow"] == "DELETE, GET, HEAD, POST"


async def test_odd_expectations_are_problems_or_passed_over(api: Api) -> None:
    """Expect with something unknown neither breaks a route nor brings plain text."""
    assert (await api("GET", "/healthz", headers={"Expect": "miracles"})).status == 200
    (await api("GET", "/nowhere", headers={"Expect": "miracles"})).problem(400, "INVALID")


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer ", "Bearer a b", "Basic eDp5", "wrong", "Bearer wrong", "\u00fc"]
)
async def test_without_a_good_token_nobody_comes_in(api: Api, authorization: str | None) -> None:
    """401 comes with WWW-Authenticate, before anything else about the request is said."""
    headers = {} if authorization is None else {"Authorization": authorization}
    for method, path in (
        ("GET", "/v1/task/list?limit=x"),
        ("POST", "/v1/function"),
        ("POST", "/v1/task/x"),
        ("GET", "/v1/node/list"),
        ("POST", "/v1/node/join-token"),
        ("POST", "/v1/node/1a061cfd-df01-4b02-a067-5122c5941e15"),
        ("GET", "/v1/node/1a061cfd-df01-4b02-a067-5122c5941e15/session"),
    ):
        async with api.http.request(method, api.url + path, headers=headers) as response:
            answer = Answer(response.status, response.headers, await response.read())
        answer.problem(401, "UNAUTHENTICATED")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("form", ["{}", "Bearer {}", "bearer {}"])
async def test_token_is_taken_in_both_forms(api: Api, form: str) -> None:
    """With and without the word Bearer."""
    assert (await api("GET", "/v1/task/list", headers={"Authorization": form.format(api.token)})).status == 200


async def test_body_that_stands_still_is_given_up(api: Api) -> None:
    """A caller who stops in the middle of a body is answered 408 and let go."""
    function_id = await api.function()
    head = f"POST /v1/task/{function_id} HTTP/1.1\r\nHost: x\r\nAuthorization: {api.token}\r\nContent-Length: 9\r\n\r\n"
    (await raw(api.port, head.encode(), b"abc")).problem(408, "TOO_SLOW")


@pytest.mark.parametrize("size", [9_000, 900_000])
async def test_body_that_drips_is_given_up(api: Api, size: int) -> None:
    """A caller who sends a little now and then, so that nothing ever stands still, has no more time for it."""
    function_id = await api.function()
    request = f"POST /v1/task/{function_id} HTTP/1.1\r\nHost: x\r\nAuthorization: {api.token}\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(f"{request}Content-Length: {size}\r\n\r\n".encode())

    async def drip() -> None:
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.1)

    dripping = asyncio.create_task(drip())
    async with asyncio.timeout(SECONDS):
        assert (await reader.readline()).split()[1] == b"408"
    dripping.cancel()
    writer.close()


async def test_body_that_comes_slowly_and_steadily_is_taken(serve: Serve) -> None:
    """It may take longer than it may stand still."""
    server = msgspec.structs.replace(CONFIG.server, read_timeout=2, read_rate=1)
    api = await serve(msgspec.structs.replace(CONFIG, server=server))

    async def body() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b"x" * 10
            await asyncio.sleep(0.1)

    assert (await api("POST", f"/v1/task/{await api.function()}", body=body())).status == 201


async def test_body_in_broken_pieces_is_invalid(api: Api) -> None:
    """Chunked encoding that cannot be read is 400 and creates nothing."""
    function_id = await api.function()
    head = (
        f"POST /v1/task/{function_id} HTTP/1.1\r\nHost: x\r\nAuthorization: {api.token}\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    )
    (await raw(api.port, head.encode(), b"5\r\nhello\r\nzz\r\n")).problem(400, "INVALID")
    assert (await api("GET", "/v1/task/list")).json() == []


async def test_caller_who_leaves_in_the_middle_creates_nothing(api: Api) -> None:
    """Half a body, small or large, is no task, and no error is logged."""
    function_id = await api.function()
    with capture_logs() as logs:
        for sent in (10, 600_000):
            reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
            writer.write(
                f"POST /v1/task/{function_id} HTTP/1.1\r\nHost: x\r\nAuthorization: {api.token}\r\n"
                "Content-Length: 700000\r\n\r\n".encode()
                + b"x" * sent
            )
            await writer.drain()
            writer.write_eof()
            async with asyncio.timeout(SECONDS):
                await reader.read()
            writer.close()
            await writer.wait_closed()
    assert (await api("GET", "/v1/task/list")).json() == []
    assert [entry for entry in logs if entry["log_level"] == "error"] == []


async def test_store_that_does_not_answer_is_unavailable(api: Api) -> None:
    """503 with Retry-After, from the API and from /readyz; /healthz is about this process alone."""
    await api.store.close()
    for path in ("/v1/task/list", "/readyz"):
        answer = await api("GET", path)
        answer.problem(503, "UNAVAILABLE")
        assert int(answer.headers["Retry-After"]) > 0
    assert (await api("GET", "/healthz")).json() == {"status": "alive"}


async def test_unexpected_errors_show_nothing_and_are_logged_once(tmp_path: Path) -> None:
    """500 INTERNAL has no traceback; the log has it, at one place."""
    config = msgspec.structs.replace(
        DispatcherConfig(), server=msgspec.structs.replace(DispatcherConfig().server, listen="127.0.0.1:0")
    )
    store = SqliteStore(tmp_path / "dispatcher.sqlite")
    await store.open()
    app = build(config, store)

    async def fail(_request: web.Request) -> web.Response:
        raise RuntimeError("SELECT secret FROM /path")

    app.router.add_get("/fail", fail)
    with capture_logs() as logs:
        async with (
            cli.listening(app, config) as url,
            aiohttp.ClientSession() as http,
            http.get(f"{url}/fail") as response,
        ):
            answer = Answer(response.status, response.headers, await response.read())
    await store.close()
    answer.problem(500, "INTERNAL")
    assert b"secret" not in answer.body
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["request failed"]


async def test_connections_over_the_limit_are_turned_away(api: Api) -> None:
    """One connection too many is told 503; when another ends there is room again."""
    open_ones = [await asyncio.open_connection("127.0.0.1", api.port) for _ in range(50)]
    (await raw(api.port)).problem(503, "UNAVAILABLE")
    for _, writer in open_ones:
        writer.close()
        await writer.wait_closed()
    async with asyncio.timeout(SECONDS):
        request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
        while (await raw(api.port, request)).status != 200:
            await asyncio.sleep(0.02)


async def test_health_and_figures_need_no_token(api: Api, node: Node) -> None:
    """/healthz, /readyz, /metrics and the description are open; the figures count what happened."""
    function_id = await api.function()
    task_id = await api.task(function_id)
    await node.run()
    await api.task(function_id)
    await node.take()
    await api("GET", f"/v1/task/{task_id}")
    async with api.http.get(f"{api.url}/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        figures = dict(line.rsplit(" ", 1) for line in (await response.text()).splitlines() if line[0] != "#")
    expected = {
        "fernd_tasks_created_total": "2",
        'fernd_tasks_ended_total{code="OK"}': "1",
        'fernd_task_starts_total{start="cold"}': "0",
        'fernd_task_starts_total{start="warm"}': "1",
        'fernd_task_phase_seconds_count{phase="queued"}': "2",
        "fernd_tasks_waiting": "0",
        "fernd_task_wait_oldest_seconds": "0",
        "fernd_tasks_leased": "1",
        "fernd_nodes_connected": "1",
        "fernd_nodes_available": "1",
        "fernd_sessions_begun_total": "1",
        'fernd_store_failures_total{kind="write"}': "0",
        'fernd_loop_stalled{loop="pump"}': "0",
    }
    assert {name: figures.get(name) for name in expected} == expected
    assert int(figures['fernd_store_call_seconds_count{kind="write"}']) > 0
    assert (
        figures['fernd_store_call_seconds_bucket{kind="write",le="+Inf"}']
        == figures['fernd_store_call_seconds_count{kind="write"}']
    )
    for path in ("/healthz", "/readyz", "/v1/openapi.json"):
        async with api.http.get(api.url + path) as response:
            assert (response.status, response.content_type) == (200, "application/json")


async def test_whoever_waits_is_let_go_when_the_dispatcher_stops(tmp_path: Path) -> None:
    """A stop answers those who wait for a result, and ends event streams, at once."""
    config = msgspec.structs.replace(
        DispatcherConfig(), server=msgspec.structs.replace(DispatcherConfig().server, listen="127.0.0.1:0")
    )
    store = SqliteStore(tmp_path / "dispatcher.sqlite")
    await store.open()
    await cli.first_start(store, tmp_path)
    token = (tmp_path / cli.TOKEN_FILE).read_text().strip()
    async with aiohttp.ClientSession() as http:
        async with cli.listening(build(config, store), config) as url:
            api = Api(http, url, token, store)
            task_id = await api.task(await api.function())
            waiting = asyncio.create_task(api("GET", f"/v1/task/{task_id}/result", headers={"Prefer": "wait=60"}))
            watching = await http.get(f"{url}/v1/task/{task_id}/events", headers={"Authorization": token})
            await watching.content.readuntil(b"retry: 1000\n\n")
            started = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - started < 3
        (await waiting).problem(404, "NOT_FINISHED")
        assert b"event: end" not in await watching.content.read()
    await store.close()
