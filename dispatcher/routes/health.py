"""Whether the dispatcher lives, whether it can work, how much it does, and how to speak to it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog
from aiohttp import web
from msgspec import Struct

from dispatcher.problem import unavailable
from dispatcher.routes.answers import json
from dispatcher.routes.keys import CORE, COUNTS, OPENAPI
from dispatcher.store.base import StoreUnavailable

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
    ended = [(f'{{code="{code}"}}', count) for code, count in sorted(core.events.ended.items())]
    lines = [
        *_metric("tasks_created_total", "counter", "Tasks created.", [("", request.app[COUNTS].tasks_created)]),
        *_metric("tasks_ended_total", "counter", "Tasks ended, by error code; OK is an answer.", ended),
        *_metric("tasks_waiting", "gauge", "Tasks that wait for a node.", [("", core.queue.waiting)]),
        *_metric("tasks_leased", "gauge", "Tasks that nodes hold.", [("", len(core.leases))]),
        *_metric("nodes_connected", "gauge", "Nodes that have a session.", [("", core.queue.nodes)]),
    ]
    return web.Response(
        body="".join(lines).encode(),
        headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
    )


async def show_openapi(request: web.Request) -> web.StreamResponse:
    """Describe this API in OpenAPI 3.1."""
    return web.Response(body=request.app[OPENAPI], content_type="application/json")


def _metric(name: str, kind: str, meaning: str, samples: Iterable[tuple[str, int]]) -> Iterable[str]:
    yield f"# HELP fernd_{name} {meaning}\n# TYPE fernd_{name} {kind}\n"
    for labels, value in samples:
        yield f"fernd_{name}{labels} {value}\n"
