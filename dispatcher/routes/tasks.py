"""Tasks: create, list, show, cancel, and what they wrote. Their results are in `results`."""

from __future__ import annotations

import asyncio
import hashlib
import re

from aiohttp import hdrs, web
from msgspec import Struct

from dispatcher import audit, headers
from dispatcher.backlog import QueueFull
from dispatcher.drafts import may_be_draft
from dispatcher.ids import is_object_id
from dispatcher.problem import Problem, invalid, not_found
from dispatcher.routes import results
from dispatcher.routes.answers import epoch_seconds, epoch_seconds_or_null, json, plain
from dispatcher.routes.keys import CORE, IDS, STOPPING, now_ms
from dispatcher.routes.paging import cursor_of, limit_of, page
from dispatcher.routes.reading import Body, input_body, parameter, raw_query
from dispatcher.store.errors import KeyReused
from dispatcher.store.records import Function, NewTask, State, Task, TaskLine

STATES = (
    "queued",
    "offered",
    "accepted",
    "pulling",
    "starting",
    "running",
    "uploading",
    "finished",
    "cancelled",
)
"""What `state` can be, in the order of a task's life."""

FILTERS = (*STATES, "active", "failed")
"""What a list can be filtered by: a state; not ended; or finished with a status of 400 or more."""

_IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}")


class Created(Struct, frozen=True):
    """The id of what was created."""

    id: str


class Requirements(Struct, frozen=True, rename="camel"):
    """What a task asks of its node; 0 is no requirement."""

    cpu_count: int | float
    mem_size: int
    network_latency: int | float
    privileged: bool


class SpansView(Struct, frozen=True):
    """Milliseconds that a finished task spent waiting for a node, and in each phase of its last attempt."""

    queued: float
    pulling: float
    starting: float
    running: float
    uploading: float


class TaskView(Struct, frozen=True, rename="camel"):
    """A task. Times are strings of epoch seconds, null where they have not come yet.

    `ending` says what happened, by evidence, where `error` is the code that callers act on; `cold` whether a
    container was started for it.
    """

    id: str
    function_id: str
    issued: str
    assigned: str | None
    finished: str | None
    progress: int
    status: int
    state: str
    phase: str | None
    attempt: int
    node: str | None
    timeout: int
    capabilities: Requirements
    error: str | None
    ending: str | None
    detail: str | None
    cold: bool | None
    spans: SpansView | None


class TaskEntry(Struct, frozen=True):
    """A task as a list shows it. `status` is 0 until the task is finished."""

    id: str
    issued: str
    progress: int
    status: int


async def create_task(request: web.Request, account: str) -> web.StreamResponse:
    """Create a task: run a function on the body and the query string of this request."""
    app = request.app
    function = await _function(request, account)
    seconds = headers.wait_asked_for(request.headers.getall("Prefer", ()))
    key = _idempotency_key(request)
    query = raw_query(request)
    forwarded = headers.forwarded(request.raw_headers)
    task_id = app[IDS].new()
    _check_room(app, account)  # before the body is taken in, and once more by `submit`
    body = await input_body(request, task_id)
    new = NewTask(
        id=task_id,
        account=account,
        revision=function.revision,
        issued_ms=now_ms(app),
        query=query,
        headers=forwarded,
        body=body.inline,
        body_size=body.size,
        body_key=task_id if body.inline is None else None,
        idempotency_key=key,
        fingerprint=_fingerprint(request, function, query, body) if key is not None else b"",
    )
    if seconds and may_be_draft(new) and not app[STOPPING].is_set():
        return await _run_draft(request, new, seconds)
    try:
        task_id = await app[CORE].queue.submit(new)
    except QueueFull as full:
        if new.body_key is not None:
            await app[CORE].store.drop_upload(new.body_key)
        raise _queue_full(full) from None
    except KeyReused:
        raise Problem("CONFLICT", "this Idempotency-Key was used for another task", field="Idempotency-Key") from None
    if task_id == new.id:
        app[CORE].metrics.tasks_created += 1
    return await _answer_in_time(request, account, task_id, seconds, seconds)


async def _run_draft(request: web.Request, new: NewTask, seconds: int) -> web.StreamResponse:
    """Run a task for a caller that waits, and is told nothing of it before it is in the store."""
    app = request.app
    try:
        draft = app[CORE].queue.draft(new)
    except QueueFull as full:
        raise _queue_full(full) from None
    # Whoever goes away while waiting does not take the task along.
    ended = await asyncio.shield(draft.settled)
    app[CORE].metrics.tasks_created += 1
    if ended is None:
        left = draft.begun + seconds - asyncio.get_running_loop().time()
        return await _answer_in_time(request, new.account, new.id, seconds, max(0.0, left))
    return await results.answer(request, results.End.of_ended(new, ended), waited=seconds)


async def _answer_in_time(
    request: web.Request, account: str, task_id: str, seconds: int, left: float
) -> web.StreamResponse:
    """Answer with the result of a task that was created, if it comes while the caller waits, else with its id.

    Args:
        seconds: So long the caller asked to wait.
        left: What is left of that.
    """
    app = request.app
    if seconds and (task := await results.end_of(app, account, task_id, left)) is not None:
        return await results.answer(request, results.End.of_task(task), waited=seconds)
    response = json(Created(task_id), 201, f"/v1/task/{task_id}")
    if seconds:
        response.headers["Preference-Applied"] = f"wait={seconds}"
    return response


def _check_room(app: web.Application, account: str) -> None:
    try:
        app[CORE].queue.backlog.check_room(account)
    except QueueFull as full:
        raise _queue_full(full) from None


def _queue_full(full: QueueFull) -> Problem:
    return Problem("QUEUE_FULL", str(full), headers={"Retry-After": str(full.retry_after)})


async def list_tasks(request: web.Request, account: str) -> web.StreamResponse:
    """List tasks, newest first."""
    return page(request, await asked_tasks(request, account), _entry, lambda row: row.id)


async def asked_tasks(request: web.Request, account: str) -> list[TaskLine]:
    """Find the tasks of the page that a request asks for, and one more where there is a next page.

    Raises:
        Problem: It asks for something that there cannot be.
    """
    limit = limit_of(request)
    cursor = cursor_of(request, is_object_id)
    function_id = parameter(request, "functionId")
    if function_id is not None and not is_object_id(function_id):
        raise invalid("functionId", "functionId: expected 24 lowercase hex characters")
    state = parameter(request, "state")
    if state is not None and state not in FILTERS:
        raise invalid("state", f"state: expected one of {', '.join(FILTERS)}")
    return await request.app[CORE].store.tasks(account, limit + 1, cursor, function_id, state)


async def show_task(request: web.Request, account: str) -> web.StreamResponse:
    """Show a task."""
    return json(view(await task_of(request, account)))


async def cancel_task(request: web.Request, account: str) -> web.StreamResponse:
    """Cancel a task that is not finished. It ends as `CANCELLED`, and its node stops the work."""
    task_id = request.match_info["id"]
    line = audit.line(request, "task.cancel", task_id)
    found = await request.app[CORE].queue.cancel(account, task_id, line) if is_object_id(task_id) else None
    if found is None:
        raise not_found("task")
    _, cancelled = found
    if not cancelled:
        raise Problem("CONFLICT", "the task has ended already")
    audit.committed(line)
    return web.Response(status=204)


async def show_logs(request: web.Request, account: str) -> web.StreamResponse:
    """Give what the function wrote to stdout and stderr, when the task has ended."""
    task = await task_of(request, account)
    log = await request.app[CORE].store.log(account, task.id)
    if log is None:
        raise results.not_finished()
    gap = f"\n… {log.omitted} bytes left out …\n".encode() if log.omitted else b""
    return web.Response(body=log.head + gap + log.tail, content_type="text/plain", charset="utf-8")


async def task_of(request: web.Request, account: str) -> Task:
    """Find the task that the path names.

    Raises:
        Problem: The account has none of this id.
    """
    task_id = request.match_info["id"]
    task = await results.find(request.app, account, task_id) if is_object_id(task_id) else None
    if task is None:
        raise not_found("task")
    return task


def view(task: Task) -> TaskView:
    """Show a task as answers do."""
    revision = task.revision
    return TaskView(
        id=task.id,
        function_id=revision.function,
        issued=epoch_seconds(task.issued_ms),
        assigned=epoch_seconds_or_null(task.assigned_ms),
        finished=epoch_seconds_or_null(task.finished_ms),
        progress=task.progress,
        status=task.status,
        state=task.phase if task.state is State.ACCEPTED and task.phase else task.state,
        phase=task.phase,
        attempt=task.attempt,
        node=task.node,
        timeout=revision.timeout,
        capabilities=Requirements(
            plain(revision.cpu_count), revision.mem_size, plain(revision.network_latency), revision.privileged
        ),
        error=task.error,
        ending=task.ending,
        detail=task.detail or None,
        cold=task.cold,
        spans=_spans(task),
    )


def _spans(task: Task) -> SpansView | None:
    if task.spans is None:
        return None
    # The wall clock may have jumped between the two.
    queued = max(0, (task.assigned_ms or task.finished_ms or task.issued_ms) - task.issued_ms)
    spans = task.spans
    return SpansView(queued, spans.pulling, spans.starting, spans.running, spans.uploading)


def _entry(row: TaskLine) -> TaskEntry:
    return TaskEntry(row.id, epoch_seconds(row.issued_ms), row.progress, row.status)


async def _function(request: web.Request, account: str) -> Function:
    function_id = request.match_info["id"]
    function = await request.app[CORE].lookups.function(account, function_id) if is_object_id(function_id) else None
    if function is None:
        raise not_found("function")
    if not function.revision.image:
        raise Problem("NO_RUNNER", "the function has no image; set one with PATCH")
    return function


def _idempotency_key(request: web.Request) -> str | None:
    keys = request.headers.getall("Idempotency-Key", [])
    if not keys:
        return None
    if len(keys) > 1 or not _IDEMPOTENCY_KEY.fullmatch(keys[0]):
        raise invalid("Idempotency-Key", "Idempotency-Key: expected one of 1 to 255 visible ASCII characters")
    return keys[0]


def _fingerprint(request: web.Request, function: Function, query: str, body: Body) -> bytes:
    """Hash what the caller asked for. Other headers differ from one try to the next and do not count."""
    digest = hashlib.sha256()
    for part in (function.id, query, request.headers.get(hdrs.CONTENT_TYPE, "")):
        content = part.encode("utf-8", "surrogateescape")
        digest.update(len(content).to_bytes(8) + content)
    digest.update(body.sha256)
    return digest.digest()
