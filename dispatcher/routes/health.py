"""Whether the dispatcher lives, whether it can work, and how to speak to it."""

from __future__ import annotations

import asyncio

import structlog
from aiohttp import web
from msgspec import Struct

from dispatcher.problem import unavailable
from dispatcher.routes.answers import json
from dispatcher.routes.keys import CORE, OPENAPI
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


async def show_openapi(request: web.Request) -> web.StreamResponse:
    """Describe this API in OpenAPI 3.1."""
    return web.Response(body=request.app[OPENAPI], content_type="application/json")
