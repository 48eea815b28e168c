"""Everything that happens to an account, on one connection: Server-Sent Events for whoever looks at the whole."""

from __future__ import annotations

import asyncio

from aiohttp import web
from msgspec import Struct

from dispatcher.feed import Watcher
from dispatcher.ids import is_object_id
from dispatcher.problem import Problem, not_found
from dispatcher.routes.events import introduction
from dispatcher.routes.keys import CORE, PRINCIPAL, STOPPING
from dispatcher.routes.nodes import live
from dispatcher.routes.overview import summary, task_row
from dispatcher.routes.reading import parameter
from dispatcher.routes.streams import PING_SECONDS, EventStream, last_seen
from dispatcher.store.access import Scope
from dispatcher.store.errors import StoreUnavailable
from dispatcher.store.records import State

FLUSH_SECONDS = 0.25
"""What changes within so long is told together."""

SUMMARY_SECONDS = 2.0
"""The summary is told at most this often."""


class Stale(Struct, frozen=True):
    """More has changed than is told: the lists that are named are to be asked for again."""

    tasks: bool
    nodes: bool


class _Over(Exception):
    """The dispatcher stops, or the watcher may watch no longer."""


async def watch_account(request: web.Request, account: str) -> web.StreamResponse:
    """Follow an account: events `summary`, `tasks`, `nodes` and `stale`; with `task`, what happens to that one, too.

    Changes are told as they stand when they are told, at most four times a second, as far as the token's scopes
    reach. Nothing is repeated to a watcher that was away: it asks for what it shows once more. `stale` says that
    more changed than is told.
    """
    task_id = parameter(request, "task")
    core, scopes = request.app[CORE], request[PRINCIPAL].token.scopes
    if task_id is not None and Scope.TASKS not in scopes:
        raise Problem("FORBIDDEN", "the token has not the scope that this needs: tasks", field="task")
    if task_id is not None and (not is_object_id(task_id) or await core.store.task(account, task_id) is None):
        raise not_found("task")
    stream = EventStream(request)
    broken: ConnectionError | None = None
    with core.feed.watching(account, tasks=Scope.TASKS in scopes, nodes=Scope.NODES in scopes) as watcher:
        if not await stream.begin():
            return stream.response
        try:
            async with asyncio.TaskGroup() as group:
                moved = asyncio.Event()
                group.create_task(_tell_changes(request, stream, watcher, moved))
                group.create_task(_tell_summary(request, stream, account, moved))
                group.create_task(_keep_alive(request, stream))
                if task_id is not None:
                    group.create_task(_tell_task(request, stream, account, task_id))
        except* (_Over, Problem, StoreUnavailable):
            pass  # the watcher comes back, and is answered when that is possible
        except* ConnectionError as group_of_errors:
            broken = ConnectionResetError(str(group_of_errors.exceptions[0]))
    if broken is not None:
        raise broken
    return stream.response


async def _tell_changes(request: web.Request, stream: EventStream, watcher: Watcher, moved: asyncio.Event) -> None:
    core, account = request.app[CORE], watcher.account
    while True:
        await watcher.news.wait()
        changes = watcher.take()
        lines = await core.store.task_lines(account, changes.tasks) if changes.tasks else []
        if lines:
            await stream.send("tasks", [task_row(core, line) for line in lines])
        if changes.nodes:
            presences = await core.presences(changes.nodes)
            await stream.send("nodes", [live(node, presences.get(node)) for node in changes.nodes])
        if changes.tasks_shed or changes.nodes_shed:
            await stream.send("stale", Stale(changes.tasks_shed, changes.nodes_shed))
        if lines or changes.nodes or changes.tasks_shed or changes.nodes_shed:
            moved.set()
        await asyncio.sleep(FLUSH_SECONDS)


async def _tell_summary(request: web.Request, stream: EventStream, account: str, moved: asyncio.Event) -> None:
    while True:
        moved.clear()
        await stream.send("summary", await summary(request, account))
        await asyncio.sleep(SUMMARY_SECONDS)
        await moved.wait()


async def _tell_task(request: web.Request, stream: EventStream, account: str, task_id: str) -> None:
    """Tell what happens to one task, as its own stream does, and end with its end."""
    core = request.app[CORE]
    task = await core.store.task(account, task_id)
    if task is not None and task.state not in (State.FINISHED, State.CANCELLED):
        for kind, content in await introduction(core.events, task):
            await stream.send("task", {"kind": kind, **content})
        async for event in core.events.watch(task_id, last_seen(request)):
            await stream.send("task", {"kind": event.kind, "at": event.at_ms, **event.content}, event.id)
            if event.kind == "end":
                return
        task = await core.store.task(account, task_id)
    if task is not None:
        await stream.send("task", {"kind": "end", "state": task.state, "status": task.status, "error": task.error})


async def _keep_alive(request: web.Request, stream: EventStream) -> None:
    """Keep the stream open until the dispatcher stops; a ping also finds out whether the watcher may still watch."""
    stopping = request.app[STOPPING]
    while not stopping.is_set():
        try:
            async with asyncio.timeout(PING_SECONDS):
                await stopping.wait()
        except TimeoutError:
            await stream.ping()
    raise _Over
