"""Bodies that are too large for a node's session, beside it. A lease opens the door, as on the session."""

from __future__ import annotations

import hashlib
import re

from aiohttp import hdrs, web

from agent.protocol import LEASE_HEADER, OFFSET_HEADER, SHA256_HEADER, SIZE_HEADER, Lease
from dispatcher.ids import is_object_id
from dispatcher.problem import Problem, invalid, not_found
from dispatcher.routes.keys import CONFIG, CORE
from dispatcher.routes.reading import chunks
from dispatcher.routes.results import send
from dispatcher.store.body_keys import result_key
from dispatcher.store.errors import UploadOvertaken
from dispatcher.store.records import Node


async def fetch_input(request: web.Request, node: Node) -> web.StreamResponse:
    """Give the input of the task that the lease holds."""
    found = await request.app[CORE].store.input_of(_lease(request), node.id)
    if found is None:
        raise _stale()
    body_key, body, size = found
    if body_key is None:
        return web.Response(body=body or b"", content_type="application/octet-stream")
    start = _range_start(request, size)
    response = web.StreamResponse(status=206 if start else 200, headers={hdrs.CONTENT_TYPE: "application/octet-stream"})
    if start:
        response.headers[hdrs.CONTENT_RANGE] = f"bytes {start}-{size - 1}/{size}"
    response.content_length = size - start
    await response.prepare(request)
    if request.method != hdrs.METH_HEAD:
        await send(request, response, body_key, start)
    return response


def _range_start(request: web.Request, size: int) -> int:
    """Give the first byte asked for. Only ``bytes=n-`` is known; what is not known may be passed over (RFC 9110)."""
    match = re.fullmatch(r"bytes=([0-9]{1,15})-", request.headers.get(hdrs.RANGE, ""))
    start = int(match[1]) if match else 0
    return start if start < size else 0


async def show_upload(request: web.Request, node: Node) -> web.StreamResponse:
    """Say how much of a result has been kept, so that its upload can go on from there."""
    upload = await request.app[CORE].store.upload(await _held(request, node))
    return web.Response(headers={OFFSET_HEADER: str(upload.kept)})


async def put_result(request: web.Request, node: Node) -> web.StreamResponse:
    """Take the body of a result, or the rest of it. The outcome that it belongs to follows on the session.

    What has come is kept where the connection breaks. The whole is held against its hash before it counts.
    """
    key, store, limit = await _held(request, node), request.app[CORE].store, request.app[CONFIG].limits.result
    start, size = _number(request, OFFSET_HEADER, "0"), _number(request, SIZE_HEADER)
    sha256 = request.headers.get(SHA256_HEADER, "")
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise invalid(SHA256_HEADER, "expected the SHA-256 of the whole result, in hex")
    if size > limit:
        raise Problem("TOO_LARGE", f"the result has more than {limit} bytes", field="body")
    upload = await store.upload(key)
    if upload.complete:
        return web.Response(status=204)
    if start != upload.kept:
        raise _wrong_offset(upload.kept)
    try:
        kept = await store.extend_upload(key, start, chunks(request, size - start))
    except UploadOvertaken:
        raise _wrong_offset((await store.upload(key)).kept) from None
    if kept < size:
        raise _wrong_offset(kept)
    digest = hashlib.sha256()
    async for piece in store.read_upload(key):
        digest.update(piece)
    if digest.hexdigest() != sha256:
        await store.drop_upload(key)
        raise Problem("CORRUPT", "the bytes that came have another SHA-256", field=SHA256_HEADER)
    await store.complete_upload(key)
    return web.Response(status=204)


async def _held(request: web.Request, node: Node) -> str:
    """Give the key of the result that the request's lease may end with."""
    lease = _lease(request)
    await request.app[CORE].queue.drafts.written(lease.task)
    if not await request.app[CORE].store.holds(lease, node.id):
        raise _stale()
    return result_key(lease)


def _number(request: web.Request, header: str, default: str = "") -> int:
    value = request.headers.get(header, default)
    if not (value.isascii() and value.isdigit() and len(value) <= 15):
        raise invalid(header, "expected a number of bytes")
    return int(value)


def _wrong_offset(kept: int) -> Problem:
    return Problem("WRONG_OFFSET", f"{kept} bytes are kept", field=OFFSET_HEADER, headers={OFFSET_HEADER: str(kept)})


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
