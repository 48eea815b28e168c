"""The event stream of a task."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import aiohttp
import msgspec
import pytest

from dispatcher import events as board
from dispatcher.app import build
from dispatcher.cli import listening
from dispatcher.routes import events as route
from dispatcher.routes import streams
from tests.contract.http_api.api import CONFIG, SECONDS, Api, Node


async def test_events_tell_a_tasks_life(api: Api, node: Node) -> None:
    """Events come in order with rising ids, end with `end`, and can be taken up in the middle."""
    task_id = await api.task(await api.function())
    async with _stream(api, task_id) as stream:
        events = [await _event(stream)]
        offer = await node.take()
        await node.progress(offer.lease, 40, message="half way")
        await node.finish(offer.lease, status=200, body=b"done")
        while events[-1]["event"] != "end":
            events.append(await _event(stream))
        assert await stream.read() == b""
    kinds = [event["event"] for event in events]
    assert kinds[0] == "state"
    assert {"progress", "phase"} <= set(kinds)
    assert [event["id"] for event in events] == [str(number + 1) for number in range(len(events))]
    content = {event["event"]: msgspec.json.decode(event["data"]) for event in events}
    assert content["progress"] == {"progress": 40, "message": "half way"}
    assert content["end"] == {"state": "finished", "status": 200, "error": None}


async def test_events_are_resumed_after_the_last_one_seen(api: Api) -> None:
    """Last-Event-ID leaves out what the watcher has seen already."""
    task_id = await api.task(await api.function())
    async with _stream(api, task_id) as stream:
        first = await _event(stream)
    async with _stream(api, task_id, last=first["id"]) as stream:
        await api("DELETE", f"/v1/task/{task_id}")
        second = await _event(stream)
    assert (first["id"], first["event"]) == ("1", "state")
    assert (second["id"], second["event"]) == ("2", "end")


async def test_who_comes_back_after_the_end_misses_nothing(api: Api, node: Node) -> None:
    """What happened while a watcher was cut off is told after the end, too, and once."""
    task_id = await api.task(await api.function())
    async with _stream(api, task_id) as stream:
        first = await _event(stream)
    offer = await node.take()
    await node.progress(offer.lease, 40, message="half way")
    await node.wrote(offer.lease, ("stderr", b"a line"))
    await node.finish(offer.lease, status=200)
    async with _stream(api, task_id, last=first["id"]) as stream:
        events = [await _event(stream)]
        while events[-1]["event"] != "end":
            events.append(await _event(stream))
        assert await stream.read() == b""
    assert {"progress", "log"} <= {event["event"] for event in events}
    assert [event["id"] for event in events] == [str(number + 2) for number in range(len(events))]
    async with _stream(api, task_id, last=events[-1]["id"]) as stream:
        assert (await _event(stream))["event"] == "end"
        assert await stream.read() == b""


async def test_events_of_a_task_that_ended_long_ago_are_its_end(
    api: Api, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes when its events are not kept any more is told how it ended, and nothing else."""
    monkeypatch.setattr(board, "ENDED", 1)
    function_id = await api.function()
    task_id = await api.task(function_id)
    await node.run(status=404)
    await api.task(function_id)
    await node.run(status=200)
    async with _stream(api, task_id) as stream:
        end = await _event(stream)
        assert await stream.read() == b""
    assert end["event"] == "end"
    assert msgspec.json.decode(end["data"]) == {"state": "finished", "status": 404, "error": None}


async def test_events_tell_of_the_pull_and_of_what_is_written(api: Api, node: Node) -> None:
    """Bytes pulled, told once each, and log lines with the stream that they were written to."""
    task_id = await api.task(await api.function())
    offer = await node.take()
    async with _stream(api, task_id) as stream:
        await node.pulled(offer.lease, 10, 100)
        await node.pulled(offer.lease, 10, 100, sequence=2)
        await node.pulled(offer.lease, 100, 100, sequence=3)
        await node.wrote(offer.lease, ("stdout", b"one"), ("stderr", b"\xfftwo"))
        await node.finish(offer.lease, status=200)
        events = [await _event(stream)]
        while events[-1]["event"] != "end":
            events.append(await _event(stream))
    told = [(event["event"], msgspec.json.decode(event["data"])) for event in events]
    assert [content for kind, content in told if kind == "pull"] == [
        {"done": 10, "total": 100},
        {"done": 100, "total": 100},
    ]
    assert [content for kind, content in told if kind == "log"] == [
        {"stream": "stdout", "line": "one"},
        {"stream": "stderr", "line": "\ufffdtwo"},
    ]


async def test_what_was_seen_before_a_restart_is_not_all_that_is_known(api: Api, node: Node) -> None:
    """A dispatcher that has no events of a task says from the store where it stands."""
    task_id = await api.task(await api.function())
    offer = await node.take()
    await node.progress(offer.lease, 30)
    while (await api("GET", f"/v1/task/{task_id}")).json()["progress"] != 30:
        await asyncio.sleep(0.02)
    async with listening(build(CONFIG, api.store), CONFIG) as url:
        again = Api(api.http, url, api.token, api.store)
        async with _stream(again, task_id, last="5") as stream:
            told = [await _event(stream) for _ in range(3)]
    assert [event["event"] for event in told] == ["state", "phase", "progress"]
    assert all("id" not in event for event in told)


async def test_a_silent_stream_is_kept_alive(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comment comes where no event does, so that nothing on the way takes the stream for dead."""
    monkeypatch.setattr(route, "PING_SECONDS", 0.05)
    task_id = await api.task(await api.function())
    async with _stream(api, task_id) as stream:
        await _event(stream)
        assert await stream.readuntil(b"\n\n") == b": ping\n\n"
        assert await stream.readuntil(b"\n\n") == b": ping\n\n"


async def test_a_watcher_that_does_not_read_is_shed(api: Api, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cut off after its time, and costs no memory beyond that; the task does not notice."""
    monkeypatch.setattr(streams, "WRITE_SECONDS", 0.2)
    task_id = await api.task(await api.function())
    offer = await node.take()
    with socket.create_connection(("127.0.0.1", api.port)) as watcher:
        head = f"GET /v1/task/{task_id}/events HTTP/1.1\r\nHost: x\r\nAuthorization: {api.token}\r\n\r\n"
        watcher.sendall(head.encode())
        broken = select.poll()
        broken.register(watcher, select.POLLERR | select.POLLHUP)
        lines: list[tuple[Literal["stdout", "stderr"], bytes]] = [("stdout", b"x" * 4000)] * 200
        async with asyncio.timeout(SECONDS):
            while not broken.poll(0):
                await node.wrote(offer.lease, *lines)
                await asyncio.sleep(0.01)
    await node.finish(offer.lease, status=200)


async def test_a_cancelled_task_keeps_what_it_wrote(api: Api, node: Node) -> None:
    """Nobody brings the log of a task that was called back, so what was shown of it is kept."""
    task_id = await api.task(await api.function())
    offer = await node.take()
    async with _stream(api, task_id) as stream:
        await node.wrote(offer.lease, ("stdout", b"one"), ("stderr", b"two"))
        while (await _event(stream))["event"] != "log":
            pass
    await api("DELETE", f"/v1/task/{task_id}")
    answer = await api("GET", f"/v1/task/{task_id}/logs")
    assert answer.body == b"one\ntwo\n"


@asynccontextmanager
async def _stream(api: Api, task_id: str, last: str = "") -> AsyncIterator[aiohttp.StreamReader]:
    """Open the event stream of a task, behind its first line."""
    headers = {"Authorization": api.token, "Last-Event-ID": last}
    async with (
        asyncio.timeout(SECONDS),
        api.http.get(f"{api.url}/v1/task/{task_id}/events", headers=headers) as answer,
    ):
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert await answer.content.readuntil(b"\n\n") == b"retry: 1000\n\n"
        yield answer.content


async def _event(stream: aiohttp.StreamReader) -> dict[str, str]:
    """Read the next event."""
    lines = (await stream.readuntil(b"\n\n")).decode().strip().split("\n")
    return {name: value for name, _, value in (line.partition(": ") for line in lines)}
