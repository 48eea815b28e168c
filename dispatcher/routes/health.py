"""Whether the dispatcher lives, whether it can work, how much it does, and how to speak to it."""

from __future__ import annotations

import asyncio

import structlog
from aiohttp import web
from msgspec import Struct

from agent.exposition import CONTENT_TYPE, render
from dispatcher.metrics import OLDEST_OF, families
from dispatcher.problem import unavailable
from dispatcher.routes.answers import json
from dispatcher.routes.keys import CORE, OPENAPI, now_ms
from dispatcher.store.errors import StoreUnavailable

PING_SECONDS = 2.0

log = structlog.get_logger()


class Health(Struct, frozen=True):
    """One word: `alive` or `ready`."""

    status: str


async def show_alive(_request: web.Request) -> web.StreamResponse:
    """Answer, which shows that the dispatcher lives."""
    return json(Health("alive"))


async def show_ready(request: web.Request) -> web.StreamResponse:
    """Say whether the store can be read and written and its migrations are done."""
    try:
        async with asyncio.timeout(PING_SECONDS):
            await request.app[CORE].store.ping()
    except (StoreUnavailable, TimeoutError) as error:
        log.warning("not ready, the store does not answer", error=str(error))
        raise unavailable("the store does not answer") from None
    return json(Health("ready"))


async def show_metrics(request: web.Request) -> web.StreamResponse:
    """Give figures in Prometheus text format. They count from the start of this process."""
    core = request.app[CORE]
    body = render(families(core, await _oldest_seconds(request)))
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})


async def show_openapi(request: web.Request) -> web.StreamResponse:
    """Describe this API in OpenAPI 3.1."""
    return web.Response(body=request.app[OPENAPI], content_type="application/json")


async def _oldest_seconds(request: web.Request) -> float | None:
    """Say how long the task waits that waits longest; None where the store does not say."""
    core = request.app[CORE]
    waiting = [revision.key for revision in core.matching.waiting()[:OLDEST_OF]]
    if not waiting:
        return 0.0
    try:
        async with asyncio.timeout(PING_SECONDS):
            issued_ms = await core.store.oldest_queued(waiting)
    except (StoreUnavailable, TimeoutError):
        return None  # the other figures are all the more wanted then
    return 0.0 if issued_ms is None else max(0.0, (now_ms(request.app) - issued_ms) / 1000)
