"""A port of this machine where Prometheus reads the figures of the agent: only with ``[metrics] listen``.

Imported where it is wanted alone: the server costs memory that an agent has no other use for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
from aiohttp import web

from agent.exposition import CONTENT_TYPE

log = structlog.get_logger()


@asynccontextmanager
async def serving(host: str, port: int, figures: Callable[[], bytes]) -> AsyncIterator[None]:
    """Answer ``GET /metrics``. Where the port cannot be had, the node works all the same."""

    async def show(_request: web.Request) -> web.Response:
        return web.Response(body=figures(), headers={"Content-Type": CONTENT_TYPE})

    app = web.Application()
    app.router.add_get("/metrics", show)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host or None, port).start()
        except OSError as error:
            log.error("figures cannot be read over the network", listen=f"{host}:{port}", reason=str(error))  # noqa: TRY400
        else:
            log.info("figures can be read", address=runner.addresses[0])
        yield
    finally:
        await runner.cleanup()
