"""What happens to a task, as Server-Sent Events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

from aiohttp import web

from dispatcher.events import Event, Events, Kind
from dispatcher.routes.keys import CORE, STOPPING
from dispatcher.routes.streams import PING_SECONDS, EventStream, last_seen
from dispatcher.routes.tasks import task_of
from dispatcher.store.records import State, Task


async def watch_task(request: web.Request, account: str) -> web.StreamResponse:
    """Follow a task: events `state`, `phase`, `pull`, `progress`, `log`, and `end`, which is the last one."""
    task = await task_of(request, account)
    stream = EventStream(request)
    if not await stream.begin():
        return stream.response
    if task.state not in (State.FINISHED, State.CANCELLED):
        for kind, content in await introduction(request.app[CORE].events, task):
            await stream.send(kind, content)
        last = await _follow(request, stream, task.id)
        if last is not None and last.kind == "end":
            return stream.response
        task = await task_of(request, account)
    elif past := request.app[CORE].events.past(task.id, last_seen(request)):
        for event in past:
            await stream.send(event.kind, event.content, event.id)
        return stream.response
    if task.state in (State.FINISHED, State.CANCELLED):
        await stream.send("end", {"state": task.state, "status": task.status, "error": task.error})
    return stream.response


async def introduction(events: Events, task: Task) -> list[tuple[Kind, dict[str, Any]]]:
    """Say where a task stands of which no events are known; nothing where they say it themselves.

    No ids go with what the store knows, since these are no events that were numbered.
    """
    if task.state is State.QUEUED and task.attempt == 1:
        events.begin(task.id, task.issued_ms)
    return [] if await events.introduced(task.id) else list(_where_it_stands(task))


def _where_it_stands(task: Task) -> Iterable[tuple[Kind, dict[str, Any]]]:
    state = {"state": task.state, "node": task.node, "attempt": task.attempt}
    yield "state", {key: value for key, value in state.items() if value}
    if task.phase is not None:
        yield "phase", {"phase": task.phase}
    if task.progress:
        yield "progress", {"progress": task.progress, "message": ""}


async def _follow(request: web.Request, stream: EventStream, task_id: str) -> Event | None:
    """Send events as they come, and a comment when none does; give the last one sent."""
    events = request.app[CORE].events.watch(task_id, last_seen(request))
    stopping = asyncio.create_task(request.app[STOPPING].wait())
    coming = asyncio.create_task(_next(events))
    last: Event | None = None
    try:
        while True:
            done, _ = await asyncio.wait({coming, stopping}, timeout=PING_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if coming in done:
                event = coming.result()
                if event is None:
                    return last
                last = event
                await stream.send(event.kind, event.content, event.id)
                coming = asyncio.create_task(_next(events))
            elif stopping in done:
                return last
            else:
                await stream.ping()
    finally:
        coming.cancel()
        stopping.cancel()


async def _next(events: AsyncIterator[Event]) -> Event | None:
    return await anext(events, None)
