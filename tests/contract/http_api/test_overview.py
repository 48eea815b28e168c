"""Overviews: the summary, lists with figures, and one stream for everything of an account."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest

from agent.protocol import Capabilities, Load, NodeHeartbeat, Spans
from dispatcher import feed
from dispatcher.auth import new_token, token_hash
from dispatcher.ids import Ids
from dispatcher.routes import live
from dispatcher.store.access import Scope, Token
from tests.contract.http_api.api import SECONDS, Api, Node

Frame = tuple[str, Any]


async def test_a_summary_counts_what_there_is(api: Api, stranger: Api, node: Node) -> None:
    """Tasks by state, nodes with the reasons why they take no work; of the account alone."""
    empty = (await stranger("GET", "/v1/summary")).json()
    assert set(empty["tasks"].values()) == {0}
    assert empty["nodes"] == {"all": 0, "removed": 0, "connected": 0, "available": 0, "reasons": {}}

    function_id = await api.function()
    await api.join()
    await api.task(function_id)
    await node.run(status=500)
    await api.task(function_id)
    await node.take()
    async with stream(api) as frames:
        await node.send(heartbeat(node, available=False, reason="on battery"))
        await until(frames, "nodes", lambda nodes: nodes[0]["reason"] == "on battery")
        found = await until(frames, "summary", lambda summary: summary["nodes"]["reasons"])
    assert found["tasks"] == {"waiting": 0, "running": 1, "finished": 1, "failed": 1, "cancelled": 0}
    assert found["lastHour"] == found["tasks"]
    assert found["nodes"] == {"all": 2, "removed": 0, "connected": 1, "available": 0, "reasons": {"on battery": 1}}
    assert found["countedTo"] == 100_000


async def test_a_task_row_says_where_a_task_stands(api: Api, stranger: Api, node: Node) -> None:
    """With the newest progress, which the store has not yet; in pages; of the account alone."""
    function_id = await api.function()
    task_id = await api.task(function_id)
    offer = await node.take()
    async with stream(api) as frames:
        await node.progress(offer.lease, 40, message="half way")
        (told,) = await until(frames, "tasks", lambda rows: rows[0]["progress"] == 40)
    (row,) = (await api("GET", "/v1/task/overview?state=active")).json()
    assert row == told
    assert (row["id"], row["functionId"], row["state"], row["node"]) == (task_id, function_id, "running", node.id)
    assert (row["progress"], row["message"], row["status"], row["error"]) == (40, "half way", 0, None)
    assert (await api("GET", f"/v1/node/{node.id}/tasks")).json() == [row]
    (await stranger("GET", f"/v1/node/{node.id}/tasks")).problem(404, "NOT_FOUND")
    assert (await stranger("GET", "/v1/task/overview")).json() == []

    second = await api.task(function_id)
    page = await api("GET", "/v1/task/overview?limit=1")
    assert [row["id"] for row in page.json()] == [second]
    assert page.headers["Link"] == f'</v1/task/overview?limit=1&cursor={second}>; rel="next"'
    (await api("GET", "/v1/task/overview?state=lost")).problem(400, "INVALID")
    assert len((await api("GET", "/v1/task/list?state=active")).json()) == 2
    assert (await api("GET", "/v1/task/list?state=failed")).json() == []


async def test_functions_show_where_their_time_goes(api: Api, stranger: Api, node: Node) -> None:
    """Counts, percentiles by phase, cold share and errors, for each function of a page and for one."""
    function_id = await api.function()
    for number in range(4):
        await api.task(function_id)
        spans = Spans(pulling=0, starting=10, running=100 * (number + 1), uploading=1)
        await node.run(spans=spans, cold=number == 0, status=404 if number == 3 else 200)
    unused = await api.function("unused")
    rows = (await api("GET", "/v1/function/overview")).json()
    assert [(row["id"], row["name"]) for row in rows] == [(unused, "unused"), (function_id, "hello")]
    recent = rows[1]["figures"]["recent"]
    assert rows[1]["figures"]["tasks"] == {"waiting": 0, "running": 0, "finished": 4, "failed": 1, "cancelled": 0}
    assert (recent["sample"], recent["coldShare"], recent["errors"]) == (4, 0.25, {"404": 1})
    assert recent["phases"]["running"] == {"p50": 200, "p95": 400}
    assert recent["phases"]["starting"] == {"p50": 10, "p95": 10}
    assert rows[0]["figures"]["recent"] == {"sample": 0, "phases": None, "coldShare": None, "errors": {}}
    assert rows[0]["figures"]["lastFinished"] is None
    assert (await api("GET", f"/v1/function/{function_id}/figures")).json() == rows[1]["figures"]
    (await stranger("GET", f"/v1/function/{function_id}/figures")).problem(404, "NOT_FOUND")
    page = await api("GET", "/v1/function/overview?limit=1")
    assert [row["id"] for row in page.json()] == [unused]
    assert f"cursor={unused}" in page.headers["Link"]
    (await api("GET", "/v1/function/overview?limit=101")).problem(400, "INVALID")


async def test_nodes_are_found_by_state_and_words(api: Api, node: Node) -> None:
    """Those that take work, those that do not, those that are away or were removed; and by id or description."""
    away, _ = await api.join()
    removed, _ = await api.join()
    await api("DELETE", f"/v1/node/{removed}")

    async def listed(query: str) -> list[str]:
        return [found["hash"] for found in (await api("GET", f"/v1/node/list?{query}")).json()]

    assert await listed("state=available") == [node.id]
    assert await listed("state=unavailable") == []
    assert await listed("state=away") == [away]
    assert await listed("state=removed") == [removed]
    assert await listed(f"search={away[:13].upper()}") == [away]
    assert await listed("search=A%20NODE") == sorted([node.id, away, removed])
    assert await listed("search=nothing") == []
    (await api("GET", "/v1/node/list?state=broken")).problem(400, "INVALID")
    first = await api("GET", "/v1/node/list?search=node&limit=2")
    assert len(first.json()) == 2
    path = first.headers["Link"].partition(">")[0].lstrip("<")
    rest = await api("GET", path)
    assert "Link" not in rest.headers
    assert sorted(found["hash"] for found in first.json() + rest.json()) == sorted([node.id, away, removed])


async def test_the_stream_tells_what_changes(api: Api, stranger: Api) -> None:
    """Tasks from creation to end, nodes that come, change and leave; and nothing of another account."""
    function_id = await api.function()
    async with stream(api) as frames, stream(stranger) as others:
        assert (await anext(others))[0] == "summary"
        node = Node(api, *await api.join())
        assert (await until(frames, "stale", lambda _: True))["nodes"]
        await node.open()
        (told,) = await until(frames, "nodes", lambda nodes: nodes[0]["connected"])
        assert (told["hash"], told["available"], told["credit"]["slots"]) == (node.id, True, 8)
        await node.send(heartbeat(node, load=Load(cpu_percent=55, memory_free=100, running=1)))
        (told,) = await until(frames, "nodes", lambda nodes: nodes[0]["load"]["cpuPercent"] == 55)
        assert (told["networkLatency"], told["running"]) == (1.5, 1)

        task_id = await api.task(function_id)
        await node.run(body=b"done")
        (row,) = await until(frames, "tasks", lambda rows: rows[0]["state"] == "finished")
        assert (row["id"], row["status"], row["progress"]) == (task_id, 200, 100)
        await until(frames, "summary", lambda summary: summary["tasks"]["finished"] == 1)

        await node.ws.close()
        (told,) = await until(frames, "nodes", lambda nodes: not nodes[0]["connected"])
        assert (told["available"], told["reason"], told["load"]) == (False, "not connected", None)
        task_id = await stranger.task(await stranger.function())
        kind, rows = await anext(others)
        assert (kind, [row["id"] for row in rows]) == ("tasks", [task_id])


async def test_the_stream_tells_one_task_closely(api: Api, stranger: Api, node: Node) -> None:
    """With `task`, its phases and lines come too, from its beginning or from the last one seen, to its end."""
    task_id = await api.task(await api.function())
    offer = await node.take()
    await node.progress(offer.lease, 40, message="half way")
    async with stream(api, task=task_id) as frames:
        told = await until(frames, "task", lambda event: event["kind"] == "progress")
        assert (told["progress"], told["message"]) == (40, "half way")
        assert abs(told["at"] / 1000 - time.time()) < SECONDS
        await node.finish(offer.lease, status=200)
        end = await until(frames, "task", lambda event: event["kind"] == "end")
    ended = {"kind": "end", "state": "finished", "status": 200, "error": None}
    assert end == ended | {"at": end["at"]}
    async with stream(api, task=task_id) as frames:
        assert await until(frames, "task", lambda _: True) == ended
    (await stranger("GET", f"/v1/events?task={task_id}")).problem(404, "NOT_FOUND")
    (await api("GET", "/v1/events?task=x")).problem(404, "NOT_FOUND")


async def test_a_token_sees_as_far_as_its_scopes_reach(api: Api, node: Node) -> None:
    """One for nodes sees no tasks, not even how many there are; and the other way about."""

    async def caller(scope: Scope) -> Api:
        secret = new_token()
        await api.store.add_token(Token(Ids().new(), "default", "some", frozenset({scope}), 0), token_hash(secret))
        return Api(api.http, api.url, secret, api.store)

    lender, sender = await caller(Scope.NODES), await caller(Scope.TASKS)
    found = (await lender("GET", "/v1/summary")).json()
    assert (found["tasks"], found["lastHour"], found["nodes"]["all"]) == (None, None, 1)
    found = (await sender("GET", "/v1/summary")).json()
    assert (found["tasks"]["waiting"], found["nodes"]) == (0, None)
    task_id = await api.task(await api.function())
    (await lender("GET", f"/v1/events?task={task_id}")).problem(403, "FORBIDDEN")
    async with stream(lender) as of_lender, stream(sender) as of_sender:
        await node.send(heartbeat(node))
        await api("DELETE", f"/v1/task/{task_id}")
        assert (await until_any(of_lender, "tasks", "nodes"))[0] == "nodes"
        assert (await until_any(of_sender, "tasks", "nodes"))[0] == "tasks"


async def test_the_stream_ends_with_its_token(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may not come in any more is not told any more, either."""
    monkeypatch.setattr(live, "PING_SECONDS", 0.05)
    secret, token_id = new_token(), Ids().new()
    await api.store.add_token(Token(token_id, "default", "some", frozenset({Scope.TASKS}), 0), token_hash(secret))
    async with stream(Api(api.http, api.url, secret, api.store)) as frames:
        assert (await anext(frames))[0] == "summary"
        assert (await api("DELETE", f"/v1/token/{token_id}")).status == 204
        async with asyncio.timeout(SECONDS):
            assert [frame async for frame in frames] == []


async def test_more_changes_than_are_told_are_shed(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watcher whom much happens to at once is told to look again, and then told of changes as before."""
    monkeypatch.setattr(feed, "MOST_TASKS", 2)
    function_id = await api.function()
    async with stream(api) as frames:
        made = await asyncio.gather(*(api.task(function_id) for _ in range(16)))
        assert await until(frames, "stale", lambda _: True) == {"tasks": True, "nodes": False}
        for task_id in made:
            await api("DELETE", f"/v1/task/{task_id}")
            kind, content = await until_any(frames, "tasks", "stale")
            if kind == "tasks" and content[0]["id"] == task_id:  # nothing else happened at the same time
                assert content[0]["error"] == "CANCELLED"
                return
    raise AssertionError("nothing was told any more")


def heartbeat(node: Node, *, available: bool = True, reason: str = "", load: Load | None = None) -> NodeHeartbeat:
    return NodeHeartbeat(0, [], Capabilities(8, 8192, 1.5), node.credit, load or Load(), available, reason)


async def until(frames: AsyncIterator[Frame], kind: str, good: Callable[[Any], object]) -> Any:
    """Give the content of the next event of a kind with which a condition is true."""
    while True:
        _, content = await until_any(frames, kind)
        if good(content):
            return content


async def until_any(frames: AsyncIterator[Frame], *kinds: str) -> Frame:
    """Give the next event of one of some kinds."""
    async with asyncio.timeout(SECONDS):
        async for kind, content in frames:
            if kind in kinds:
                return kind, content
    raise AssertionError(f"the stream ended without {kinds}")


@asynccontextmanager
async def stream(api: Api, **query: str) -> AsyncIterator[AsyncIterator[Frame]]:
    """Open an account's event stream."""
    headers = {"Authorization": f"Bearer {api.token}"}
    async with api.http.get(f"{api.url}/v1/events", params=query, headers=headers) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/event-stream"
        yield _frames(answer.content)


async def _frames(content: aiohttp.StreamReader) -> AsyncIterator[Frame]:
    kind = ""
    while line := (await content.readline()).decode().rstrip("\n"):
        assert line.startswith("retry: ")
    async for raw in content:
        name, _, value = raw.decode().rstrip("\n").partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, msgspec.json.decode(value)
