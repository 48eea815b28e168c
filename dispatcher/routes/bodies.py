"""Bodies that are too large for a node's session, beside it. A lease opens the door, as on the session."""

from __future__ import annotations

from aiohttp import hdrs, web

from agent.protocol import LEASE_HEADER, Lease
from dispatcher.ids import is_object_id
from dispatcher.problem import Problem, invalid, not_found
from dispatcher.routes.keys import CONFIG, CORE
from dispatcher.routes.reading import chunks
from dispatcher.routes.results import send
from dispatcher.store.base import Node, result_key


async def fetch_input(request: web.Request, node: Node) -> web.StreamResponse:
    """Give the input of the task that the lease holds."""
    found = await request.app[CORE].store.input_of(_lease(request), node.id)
    if found is None:
        raise _stale()
    body_key, body, size = found
    if body_key is None:
        return web.Response(body=body or b"", content_type="application/octet-stream")
    response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "application/octet-stream"})
    response.content_length = size
    await response.prepare(request)
    if request.method != hdrs.METH_HEAD:
        await send(request, response, body_key)
    return response


async def put_result(request: web.Request, node: Node) -> web.StreamResponse:
    """Take the body of a result. The outcome that it belongs to follows on the session."""
    lease, store = _lease(request), request.app[CORE].store
    if not await store.holds(lease, node.id):
        raise _stale()
    limit = request.app[CONFIG].limits.result
    if await store.write_body(result_key(lease), chunks(request, limit), limit) is None:
        raise Problem("TOO_LARGE", f"the result has more than {limit} bytes", field="body")
    return web.Response(status=204)


def _lease(request: web.Request) -> Lease:
    task_id = request.match_info["taskId"]
    if not is_object_id(task_id):
        raise not_found("task")
    try:
        return Lease.from_header(task_id, request.headers.get(LEASE_HEADER, ""))
    except ValueError as error:
        raise invalid(LEASE_HEADER, str(error)) from None


def _stale() -> Problem:
    return Problem("CONFLICT", "the lease is not the task's present one", field=LEASE_HEADER)
