"""The result of a task: the function's own HTTP answer, or the problem that stood in its way."""

from __future__ import annotations

import asyncio

from aiohttp import hdrs, web
from msgspec import Struct
from multidict import CIMultiDict

from dispatcher import headers, problem
from dispatcher.ids import is_object_id
from dispatcher.problem import Problem, not_found
from dispatcher.routes.keys import CONFIG, CORE, PRINCIPAL, STOPPING
from dispatcher.server import cut_off
from dispatcher.store.errors import BodyMissing
from dispatcher.store.records import Ended, NewTask, Result, State, Task

RETRY_AFTER = 1
"""Seconds after which asking for a result again is worth the while."""

_NO_CONTENT = frozenset({204, 205, 304})


class End(Struct, frozen=True):
    """The end of a task, as its caller is answered with it. `result` is None where it is still to be read."""

    task: str
    account: str
    state: State
    status: int
    error: str | None
    detail: str
    result: Result | None = None

    @classmethod
    def of_task(cls, task: Task) -> End:
        """Give the end of a task that the store has ended."""
        return cls(task.id, task.account, task.state, task.status, task.error, task.detail)

    @classmethod
    def of_ended(cls, new: NewTask, ended: Ended) -> End:
        """Give the end of a task as it has just been written."""
        result = Result(ended.status, ended.headers, ended.body, ended.body_size, ended.body_key)
        return cls(new.id, new.account, ended.state, ended.status, ended.error, ended.detail, result)


async def show_result(request: web.Request, account: str) -> web.StreamResponse:
    """Give the result of a task: the status, headers and body that the function answered."""
    task_id = request.match_info["id"]
    if not is_object_id(task_id):
        raise not_found("task")
    seconds = headers.wait_asked_for(request.headers.getall("Prefer", ()))
    task = await end_of(request.app, account, task_id, seconds)
    if task is None:
        raise not_finished()
    return await answer(request, End.of_task(task), waited=seconds)


async def end_of(app: web.Application, account: str, task_id: str, seconds: float) -> Task | None:
    """Give a task when it has ended; None when it has not within so many seconds.

    Raises:
        Problem: The account has no such task.
    """
    core = app[CORE]
    # Listening begins before the look at the store, so that an end between the two is not missed.
    finished = asyncio.create_task(core.events.finished(task_id, seconds))
    stopping = asyncio.create_task(app[STOPPING].wait())
    try:
        task = await _task(app, account, task_id)
        if seconds and not _ended(task):
            await asyncio.wait({finished, stopping}, return_when=asyncio.FIRST_COMPLETED)
            task = await _task(app, account, task_id)
    finally:
        finished.cancel()
        stopping.cancel()
    return task if _ended(task) else None


async def answer(request: web.Request, end: End, *, waited: float = 0) -> web.StreamResponse:
    """Answer with the result of a task that has ended."""
    ours = {"X-Task-Id": end.task, "X-Task-State": end.state.value}
    if waited:
        ours["Preference-Applied"] = f"wait={waited}"
    if end.error is not None:
        body = problem.document(end.error, end.detail)
        return web.Response(status=end.status, body=body, content_type=problem.CONTENT_TYPE, headers=ours)
    result = end.result or await request.app[CORE].store.result(end.account, end.task)
    if result is None:
        raise not_found("task")
    lines = CIMultiDict(headers.answered(result.headers))
    lines.update(ours)
    # A function's page must not act in a browser as if it were ours.
    lines["X-Content-Type-Options"] = "nosniff"
    lines.add("Content-Security-Policy", "sandbox")
    if request[PRINCIPAL].browser is not None:
        # Nothing in a browser sends a function's cookies back to it; they could only crowd out our own.
        lines.popall(hdrs.SET_COOKIE, None)
    if result.status in _NO_CONTENT:
        return web.Response(status=result.status, headers=lines)
    # A body without a type is bytes, as RFC 9110 has it.
    lines.setdefault(hdrs.CONTENT_TYPE, "application/octet-stream")
    if result.body_key is None:
        return web.Response(status=result.status, body=result.body or b"", headers=lines)
    return await _stream(request, result, result.body_key, lines)


def not_finished() -> Problem:
    """Say that the result is not there yet."""
    return Problem("NOT_FINISHED", "the task is not finished", headers={"Retry-After": str(RETRY_AFTER)})


async def _stream(request: web.Request, result: Result, body_key: str, lines: CIMultiDict[str]) -> web.StreamResponse:
    """Send a large body piece by piece. A caller that does not read is cut off."""
    response = web.StreamResponse(status=result.status, headers=lines)
    response.content_length = result.body_size
    await response.prepare(request)
    if request.method == hdrs.METH_HEAD:
        return response
    await send(request, response, body_key)
    return response


async def send(request: web.Request, response: web.StreamResponse, body_key: str, start: int = 0) -> None:
    """Write a body from the store, from the byte ``start`` on, into an answer that was begun."""
    timeout = request.app[CONFIG].server.read_timeout
    try:
        async for piece in request.app[CORE].store.read_body(body_key, start):
            async with asyncio.timeout(timeout):
                await response.write(piece)
    except (TimeoutError, BodyMissing) as error:
        # What has begun cannot be taken back: cut off, so that nobody takes it for the whole.
        cut_off(request.transport)
        raise ConnectionResetError("the caller stopped reading, or the body was removed meanwhile") from error


async def find(app: web.Application, account: str, task_id: str) -> Task | None:
    """Find a task of an account."""
    await app[CORE].queue.drafts.written(task_id)
    return await app[CORE].store.task(account, task_id)


async def _task(app: web.Application, account: str, task_id: str) -> Task:
    task = await find(app, account, task_id)
    if task is None:
        raise not_found("task")
    return task


def _ended(task: Task) -> bool:
    return task.state in (State.FINISHED, State.CANCELLED)
