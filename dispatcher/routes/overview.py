"""The whole of an account at a glance: its tasks and functions with their figures, and how many there are of what.

Everything here costs the same however many tasks and nodes there are: lists come in pages, counts stop
at a bound, and figures are made of the newest tasks alone, once for all who ask at about the same time.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from aiohttp import web
from msgspec import Struct
from msgspec.structs import replace

from dispatcher.core import Core
from dispatcher.figures import Figures, figures
from dispatcher.fresh import Fresh
from dispatcher.ids import is_node_id, is_object_id
from dispatcher.problem import not_found
from dispatcher.routes.answers import epoch_seconds, epoch_seconds_or_null, json
from dispatcher.routes.functions import function_of
from dispatcher.routes.keys import CORE, PRINCIPAL, now_ms
from dispatcher.routes.paging import cursor_of, limit_of, page
from dispatcher.routes.tasks import asked_tasks
from dispatcher.store.access import Scope
from dispatcher.store.records import Function, State, TaskCounts, TaskLine

COUNTED = 100_000
"""No count goes beyond this."""

COUNTED_OF_FUNCTION = 10_000
"""Nor does one of a single function's tasks."""

SAMPLE = 200
"""Newest finished tasks of a function that its figures are made of."""

FUNCTIONS_OF_PAGE = 100
REASONS = 8
HOUR_MS = 3_600_000


class TaskRow(Struct, frozen=True, rename="camel"):
    """A task in an overview. `message` came with its progress."""

    id: str
    function_id: str
    issued: str
    assigned: str | None
    finished: str | None
    progress: int
    message: str
    status: int
    state: str
    node: str | None
    error: str | None


class TaskTotals(Struct, frozen=True):
    """How many tasks wait, are with a node, and have ended; `failed` ones are finished, with 400 or more."""

    waiting: int
    running: int
    finished: int
    failed: int
    cancelled: int


class NodeTotals(Struct, frozen=True):
    """How many nodes there are, and why those that are connected take no work."""

    all: int
    removed: int
    connected: int
    available: int
    reasons: dict[str, int]


class Summary(Struct, frozen=True, rename="camel"):
    """An account in numbers. One that equals `countedTo` means so many or more.

    `lastHour` counts the tasks that were created within it. What the token's scopes do not reach is null.
    """

    version: str
    tasks: TaskTotals | None
    last_hour: TaskTotals | None
    nodes: NodeTotals | None
    counted_to: int


class FunctionFigures(Struct, frozen=True, rename="camel"):
    """What became of a function's tasks: counts up to `countedTo`, and figures of the newest."""

    tasks: TaskTotals
    counted_to: int
    last_finished: str | None
    recent: Figures


class FunctionRow(Struct, frozen=True, rename="camel"):
    """A function in an overview."""

    id: str
    name: str
    description: str
    image: str
    mode: str
    revision: int
    figures: FunctionFigures


SUMMARIES: web.AppKey[Fresh[Summary]] = web.AppKey("SUMMARIES")
FIGURES: web.AppKey[Fresh[FunctionFigures]] = web.AppKey("FIGURES")


async def show_summary(request: web.Request, account: str) -> web.StreamResponse:
    """Count what there is: tasks by state, and nodes with the reasons why they take no work."""
    return json(await summary(request, account))


async def list_task_rows(request: web.Request, account: str) -> web.StreamResponse:
    """List tasks with all that an overview shows, newest first."""
    rows = await asked_tasks(request, account)
    core = request.app[CORE]
    return page(request, rows, lambda line: task_row(core, line), lambda line: line.id)


async def list_function_rows(request: web.Request, account: str) -> web.StreamResponse:
    """List functions with their figures, newest first. A page has at most 100."""
    limit = limit_of(request, FUNCTIONS_OF_PAGE)
    found = await request.app[CORE].store.functions(account, limit + 1, cursor_of(request, is_object_id))
    made = await asyncio.gather(*(function_figures(request.app, account, one.id) for one in found[:limit]))
    # One more than is shown says that there is a next page; its figures are not looked at.
    rows = list(zip(found, [*made, None], strict=False))
    return page(request, rows, lambda row: _function_row(row[0], row[1]), lambda row: row[0].id, FUNCTIONS_OF_PAGE)


async def show_function_figures(request: web.Request, account: str) -> web.StreamResponse:
    """Show what became of a function's tasks, and where the time of the newest went."""
    function = await function_of(request, account)
    return json(await function_figures(request.app, account, function.id))


async def list_node_tasks(request: web.Request, account: str) -> web.StreamResponse:
    """List the account's tasks that a node holds, newest first: at most 1000."""
    node_id, core = request.match_info["nodeId"], request.app[CORE]
    if not is_node_id(node_id) or await core.store.node(account, node_id) is None:
        raise not_found("node")
    lines = await core.store.tasks_on_node(account, node_id, limit_of(request))
    return json([task_row(core, line) for line in lines])


async def summary(request: web.Request, account: str) -> Summary:
    """Give the summary of an account, as far as who asks may see it; one that is a second old will do."""
    app, scopes = request.app, request[PRINCIPAL].token.scopes
    found = await app[SUMMARIES].get(account, lambda: _summary(app, account))
    if not scopes.intersection((Scope.TASKS, Scope.FUNCTIONS)):
        found = replace(found, tasks=None, last_hour=None)
    return found if Scope.NODES in scopes else replace(found, nodes=None)


async def function_figures(app: web.Application, account: str, function_id: str) -> FunctionFigures:
    """Give the figures of a function of an account; some that are a few seconds old will do."""

    async def make() -> FunctionFigures:
        store = app[CORE].store
        counts, ends = await asyncio.gather(
            store.task_counts(account, COUNTED_OF_FUNCTION, function_id),
            store.recent_ends(account, function_id, SAMPLE),
        )
        last = epoch_seconds_or_null(ends[0].finished_ms if ends else None)
        return FunctionFigures(_totals(counts), COUNTED_OF_FUNCTION, last, figures(ends))

    return await app[FIGURES].get(function_id, make)


def task_row(core: Core, line: TaskLine) -> TaskRow:
    """Show a task in an overview, with the newest that its node has said where that is known here."""
    phase, progress, message = line.phase, line.progress, line.progress_message
    # What a node says of a task may come before its accept is written down.
    begun = line.state is State.ACCEPTED
    holding = core.leases.of_task(line.id) if line.state in (State.OFFERED, State.ACCEPTED) else None
    if holding is not None and holding.shown is not None:
        begun, phase = True, holding.shown.phase
        if holding.shown.percent is not None and holding.shown.percent >= progress:
            progress, message = holding.shown.percent, holding.shown.message
    return TaskRow(
        id=line.id,
        function_id=line.function,
        issued=epoch_seconds(line.issued_ms),
        assigned=epoch_seconds_or_null(line.assigned_ms),
        finished=epoch_seconds_or_null(line.finished_ms),
        progress=progress,
        message=message,
        status=line.status,
        state=phase if begun and phase else line.state,
        node=line.node,
        error=line.error,
    )


async def _summary(app: web.Application, account: str) -> Summary:
    core = app[CORE]
    an_hour_ago = f"{max(0, now_ms(app) - HOUR_MS) // 1000:08x}"
    tasks, last_hour, nodes = await asyncio.gather(
        core.store.task_counts(account, COUNTED),
        core.store.task_counts(account, COUNTED, above=an_hour_ago),
        core.store.node_counts(account, COUNTED),
    )
    presences = await core.presences_of(account)
    reasons = Counter(presence.reason or "no reason given" for presence in presences if not presence.available)
    connected = len(presences)
    return Summary(
        version=core.version,
        tasks=_totals(tasks),
        last_hour=_totals(last_hour),
        nodes=NodeTotals(
            nodes.all, nodes.disabled, connected, connected - reasons.total(), dict(reasons.most_common(REASONS))
        ),
        counted_to=COUNTED,
    )


def _totals(counts: TaskCounts) -> TaskTotals:
    return TaskTotals(counts.queued, counts.offered + counts.accepted, counts.finished, counts.failed, counts.cancelled)


def _function_row(function: Function, made: FunctionFigures | None) -> FunctionRow:
    assert made is not None, "of a function that is shown"  # noqa: S101
    revision = function.revision
    return FunctionRow(
        id=function.id,
        name=function.name,
        description=function.description,
        image=revision.image,
        mode=revision.mode,
        revision=revision.number,
        figures=made,
    )
