"""The event stream of a task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import msgspec

from tests.contract.http_api.api import SECONDS, Api, Node


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


async def test_events_of_an_ended_task_are_its_end(api: Api, node: Node) -> None:
    """Who comes too late is told how it ended, and nothing else."""
    task_id = await api.task(await api.function())
    await node.run(status=404)
    async with _stream(api, task_id) as stream:
        end = await _event(stream)
        assert await stream.read() == b""
    assert end["event"] == "end"
    assert msgspec.json.decode(end["data"]) == {"state": "finished", "status": 404, "error": None}


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
