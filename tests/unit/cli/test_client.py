"""The client, against a server that answers as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from agent.cli import answer
from agent.cli.client import EVENT_LINE_LIMIT, Client
from agent.cli.errors import Failed, Refused, Unreachable
from agent.cli.profile import Endpoint

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Handler], Awaitable[Client]]

TASK = "6405942c9956fae80d7e0e91"


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Answer every request with a handler, and give a client for it."""
    servers: list[TestServer] = []
    clients: list[Client] = []

    async def serve(handler: Handler) -> Client:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        server = TestServer(app)
        await server.start_server()
        servers.append(server)
        client = Client(Endpoint(str(server.make_url("")).rstrip("/"), "token"))
        clients.append(await client.__aenter__())
        return client

    yield serve
    for client in clients:
        await client.__aexit__(None, None, None)
    for server in servers:
        await server.close()


def streaming(content: bytes) -> Handler:
    """Answer with an event stream of this content."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(content)
        return response

    return handler


async def test_segments_cannot_leave_their_place(serve: Serve) -> None:
    """Whatever a user gives as an id stays one segment of the path."""
    seen: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.raw_path)
        return web.json_response({})

    client = await serve(handler)
    for name in ("..", "a/../b", "a?b#c", "ä"):
        await client.call("GET", "node", name)
    assert seen == ["/v1/node/%2E%2E", "/v1/node/a%2F..%2Fb", "/v1/node/a%3Fb%23c", "/v1/node/%C3%A4"]


async def test_pages(serve: Serve) -> None:
    """All pages of a list are read, and no page that nobody asks for."""
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.query_string)
        cursor = int(request.query.get("cursor", "0"))
        link = {"Link": f'</v1/task/list?limit=1000&cursor={cursor + 1}>; rel="next"'} if cursor < 2 else {}
        return web.json_response([{"id": cursor}], headers=link)

    client = await serve(handler)
    assert await client.whole_list("task") == [{"id": 0}, {"id": 1}, {"id": 2}]
    asked.clear()
    async for _ in client.pages("task", {"limit": 1000}):
        break
    assert asked == ["limit=1000"]


async def test_function_by_name_that_looks_like_an_id(serve: Serve) -> None:
    """A name of 24 characters is looked up as an id first, then as a name."""

    async def handler(request: web.Request) -> web.Response:
        if request.path == "/v1/function/list":
            return web.json_response([{"id": "1", "name": request.query["name"]}])
        return web.json_response({"code": "NOT_FOUND", "detail": "no"}, status=404)

    client = await serve(handler)
    assert (await client.function(TASK))["name"] == TASK


async def test_refusals(serve: Serve) -> None:
    """A problem becomes its code and detail; an answer in another language is told as such."""

    async def handler(request: web.Request) -> web.Response:
        if request.path.endswith("html"):
            return web.Response(text="<html>")
        return web.json_response({"code": "FORBIDDEN", "detail": "not yours"}, status=403)

    client = await serve(handler)
    with pytest.raises(Refused, match="FORBIDDEN: not yours") as raised:
        await client.call("GET", "x")
    assert (raised.value.status, raised.value.code, raised.value.exit_code) == (403, "FORBIDDEN", 1)
    with pytest.raises(Refused, match="does not speak like a dispatcher"):
        await client.call("GET", "html")


async def test_nobody_there(unused_tcp_port: int) -> None:
    """An address where nobody listens, and a name that does not exist, end with 3 and the system's words."""
    for url, words in ((f"http://127.0.0.1:{unused_tcp_port}", "Connection refused"), ("http://fernd.invalid", "")):
        async with Client(Endpoint(url, "token")) as client:
            with pytest.raises(Unreachable, match=f"cannot reach {url}: {words}") as raised:
                await client.call("GET", "x")
            assert raised.value.exit_code == 3


async def test_silence(serve: Serve) -> None:
    """A dispatcher that takes a request and says nothing is given up."""
    never = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        await never.wait()
        return web.Response()

    client = await serve(handler)
    with pytest.raises(Unreachable, match="did not answer in time"):
        async with client.request("GET", "x", silence=0.05):
            pass
    never.set()


async def test_events(serve: Serve) -> None:
    """Frames of the stream are read whatever their line ends and comments; what is no JSON object is empty."""
    content = (
        b'retry: 1000\n\n: ping\n\nid: 1\nevent: state\ndata: {"state":\ndata: "queued"}\n\n'
        b'id: 2\r\nevent:log\r\ndata: {"line": "\xc3\xa4"}\r\n\r\ndata: nonsense\n\nevent: end\ndata: {}\n\nevent: cut'
    )
    client = await serve(streaming(content))
    events = [event async for event in client.events(TASK, silence=5)]
    assert events == [
        ("1", "state", {"state": "queued"}),
        ("2", "log", {"line": "ä"}),
        ("2", "message", {}),
        ("2", "end", {}),
    ]


async def test_an_endless_line_of_events(serve: Serve) -> None:
    """A line over the limit ends the stream instead of filling the memory."""
    client = await serve(streaming(b"data: " + b"x" * (3 * EVENT_LINE_LIMIT)))
    with pytest.raises(Unreachable, match="cannot be read"):
        [event async for event in client.events(TASK, silence=5)]


async def test_result_is_told_from_refusal(serve: Serve) -> None:
    """A function's own 404 is an answer; the dispatcher's is a refusal."""
    own = True

    async def handler(request: web.Request) -> web.Response:
        if request.path.endswith(TASK):
            return web.json_response({"error": None})
        headers = {"X-Task-State": "finished"} if own else {}
        return web.json_response({"code": "NOT_FOUND", "detail": "no page"}, status=404, headers=headers)

    client = await serve(handler)
    found = await answer.fetch(client, TASK)
    assert (found.status, found.error, found.failed) == (404, None, True)
    own = False
    with pytest.raises(Refused, match="NOT_FOUND"):
        await answer.fetch(client, TASK)


async def test_waiting_goes_on_through_trouble(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken connection, a busy store and a task that is not finished yet do not end the wait."""
    monkeypatch.setattr(answer, "RETRY_SECONDS", 0)
    asked = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        if asked == 1:
            assert request.transport is not None
            request.transport.abort()
        if asked < 4:
            code, status = ("UNAVAILABLE", 503) if asked == 2 else ("NOT_FINISHED", 404)
            return web.json_response({"code": code, "detail": "not now"}, status=status)
        assert request.headers["Prefer"] == f"wait={answer.WAIT_SECONDS}"
        return web.Response(body=b"done", headers={"X-Task-State": "finished"})

    client = await serve(handler)
    assert (await answer.wait_for(client, TASK)).body == b"done"


async def test_waiting_ends_when_the_dispatcher_stays_away(
    unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage that is too long ends with 3, and says which task goes on."""
    monkeypatch.setattr(answer, "RETRY_SECONDS", 0)
    monkeypatch.setattr(answer, "OUTAGE_SECONDS", 0)
    async with Client(Endpoint(f"http://127.0.0.1:{unused_tcp_port}", "token")) as client:
        with pytest.raises(Failed, match=f"task {TASK} goes on"):
            await answer.wait_for(client, TASK)
