"""What happens to a task, as Server-Sent Events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from aiohttp import web

from dispatcher.events import Event
from dispatcher.routes.keys import CORE, STOPPING
from dispatcher.routes.tasks import task_of
from dispatcher.server import cut_off
from dispatcher.store.base import State, Task

PING_SECONDS = 15.0
WRITE_SECONDS = 10.0
"""A watcher that does not take what it is sent within so long is dropped."""

RETRY_MS = 1000
"""Watchers whose connection breaks come back after so long."""


async def watch_task(request: web.Request, account: str) -> web.StreamResponse:
    """Follow a task: events `state`, `phase`, `pull`, `progress`, `log`, and `end`, which is the last one."""
    task = await task_of(request, account)
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    try:
        await _write(response, f"retry: {RETRY_MS}\n\n".encode())
        if task.state not in (State.FINISHED, State.CANCELLED):
            if not request.app[CORE].events.known(task.id):
                await _tell_where_it_stands(response, task)
            last = await _follow(request, response, task.id)
            if last is not None and last.kind == "end":
                return response
            task = await task_of(request, account)
        if task.state in (State.FINISHED, State.CANCELLED):
            content = {"state": task.state, "status": task.status, "error": task.error}
            await _write(response, _frame("end", content))
    except TimeoutError:
        cut_off(request.transport)
        raise ConnectionResetError("the watcher stopped reading") from None
    return response


async def _tell_where_it_stands(response: web.StreamResponse, task: Task) -> None:
    """Say what the store knows of a task; without ids, since these are no events that were numbered."""
    state = {"state": task.state, "node": task.node, "attempt": task.attempt}
    await _write(response, _frame("state", {key: value for key, value in state.items() if value}))
    if task.phase is not None:
        await _write(response, _frame("phase", {"phase": task.phase}))
    if task.progress:
        await _write(response, _frame("progress", {"progress": task.progress, "message": ""}))


async def _follow(request: web.Request, response: web.StreamResponse, task_id: str) -> Event | None:
    """Send events as they come, and a comment when none does; give the last one sent."""
    events = request.app[CORE].events.watch(task_id, _last_seen(request))
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
                await _write(response, _frame(event.kind, event.content, event.id))
                coming = asyncio.create_task(_next(events))
            elif stopping in done:
                return last
            else:
                await _write(response, b": ping\n\n")
    finally:
        coming.cancel()
        stopping.cancel()


async def _next(events: AsyncIterator[Event]) -> Event | None:
    return await anext(events, None)


async def _write(response: web.StreamResponse, content: bytes) -> None:
    async with asyncio.timeout(WRITE_SECONDS):
        await response.write(content)


def _frame(kind: str, content: dict[str, Any], number: int | None = None) -> bytes:
    name = b"" if number is None else b"id: %d\n" % number
    return b"%sevent: %s\ndata: %s\n\n" % (name, kind.encode(), msgspec.json.encode(content))


def _last_seen(request: web.Request) -> int | None:
    text = request.headers.get("Last-Event-ID", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None
