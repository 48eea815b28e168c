"""The HTTP application: routes, who may use them, and what becomes of their errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from http import HTTPStatus

import msgspec
import structlog
from aiohttp import hdrs, web

from dispatcher import __version__, auth, openapi, problem
from dispatcher.config import DispatcherConfig
from dispatcher.core import Core
from dispatcher.fresh import Fresh
from dispatcher.ids import Ids, is_node_id
from dispatcher.problem import Problem, invalid
from dispatcher.queue import Limits
from dispatcher.routes.keys import (
    CONFIG,
    CORE,
    IDS,
    LARGE_JSON,
    LOG_INS,
    OPENAPI,
    PRINCIPAL,
    STOPPING,
    WALL,
    now_ms,
)
from dispatcher.routes.overview import FIGURES, SUMMARIES
from dispatcher.routes.table import TABLE, Access, Route
from dispatcher.store.access import AccountLimits
from dispatcher.store.base import Store
from dispatcher.store.errors import StoreUnavailable
from dispatcher.throttle import Throttle
from dispatcher.tracing import Tracing

LARGE_JSON_AT_ONCE = 4

SUMMARY_SECONDS = 1.0
FIGURES_SECONDS = 5.0
"""So old may be what an overview is told."""

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build(
    config: DispatcherConfig,
    store: Store,
    *,
    wall: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
) -> web.Application:
    """Make the application over a store that is open. Its `Core` runs from startup to shutdown."""
    limits = Limits(
        queue_length=config.limits.queue_length,
        result_bytes=config.limits.result,
        no_capable_seconds=config.queue.wait,
        retention_seconds=config.store.retention,
        audit_seconds=config.access.audit_retention,
        account=msgspec.convert(config.quotas, AccountLimits, from_attributes=True),
    )
    app = web.Application(middlewares=[answer_problems])
    app[CONFIG] = config
    tracing = Tracing(config.otel.endpoint, __version__) if config.otel.endpoint else None
    app[CORE] = Core(store, limits, __version__, tracing=tracing, wall=wall, monotonic=monotonic)
    app[IDS] = Ids(wall)
    app[WALL] = wall
    app[LOG_INS] = Throttle(monotonic)
    app[SUMMARIES] = Fresh(SUMMARY_SECONDS, monotonic)
    app[FIGURES] = Fresh(FIGURES_SECONDS, monotonic)
    app[STOPPING] = asyncio.Event()
    app[LARGE_JSON] = asyncio.Semaphore(LARGE_JSON_AT_ONCE)
    app[OPENAPI] = msgspec.json.encode(openapi.describe(TABLE, __version__))
    for route in TABLE:
        methods = [route.method]
        if route.method == hdrs.METH_GET and HTTPStatus.SWITCHING_PROTOCOLS not in route.gives:
            methods.append(hdrs.METH_HEAD)
        handler = _guarded(route)
        for method in methods:
            app.router.add_route(method, route.path, handler, expect_handler=_expect_nothing_yet)
    _refuse_other_methods(app)
    app.on_startup.append(_start)
    app.on_shutdown.append(_stop)
    return app


def _refuse_other_methods(app: web.Application) -> None:
    """Let a path that has a name of its own not be taken for an id where it does not know a method."""
    named: dict[str, set[str]] = {}
    for resource in app.router.resources():
        if "{" not in resource.canonical:
            named.setdefault(resource.canonical, set()).update(route.method for route in resource)
    for path, methods in named.items():
        app.router.add_route("*", path, partial(_refuse_method, methods), expect_handler=_expect_nothing_yet)


async def _refuse_method(allowed: Collection[str], request: web.Request) -> web.StreamResponse:
    raise web.HTTPMethodNotAllowed(request.method, allowed)


async def _start(app: web.Application) -> None:
    await app[CORE].start()


async def _stop(app: web.Application) -> None:
    """Let those who wait go, and say goodbye to the nodes, before connections are closed."""
    app[STOPPING].set()
    await app[CORE].stop()


def _guarded(route: Route) -> Handler:
    """Let in whom the table says, and tell the handler who it is."""
    handler = route.handler
    # Whatever a route may change but tasks, which are not remembered.
    changes = route.method != hdrs.METH_GET and not route.path.startswith("/v1/task/")

    async def open_to_all(request: web.Request) -> web.StreamResponse:
        return await handler(request)

    async def for_account(request: web.Request) -> web.StreamResponse:
        core = request.app[CORE]
        principal = await auth.principal_of(request, core.store, core.lookups, now_ms(request.app))
        auth.check_scope(principal, route.scopes)
        request[PRINCIPAL] = principal
        if not changes:
            return await handler(request, principal.account)
        try:
            return await handler(request, principal.account)
        finally:
            core.lookups.forget()

    async def for_join(request: web.Request) -> web.StreamResponse:
        store, now = request.app[CORE].store, now_ms(request.app)
        return await handler(request, await auth.account_of_join_token(request, store, now))

    async def for_node(request: web.Request) -> web.StreamResponse:
        node_id = request.match_info["nodeId"]
        if not is_node_id(node_id):
            raise invalid("nodeId", "nodeId: expected a UUID in lower case")
        return await handler(request, await auth.node_of(request, request.app[CORE].store, node_id))

    return {
        Access.OPEN: open_to_all,
        Access.ACCOUNT: for_account,
        Access.JOIN: for_join,
        Access.NODE: for_node,
    }[route.access]


async def _expect_nothing_yet(_request: web.Request) -> None:
    """Leave ``Expect: 100-continue`` to whoever reads the body: first it must be known who sends it."""


@web.middleware
async def answer_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever is raised into a problem document. Nothing else of an error leaves the dispatcher."""
    try:
        _check_size(request)
        return await handler(request)
    except Problem as error:
        return _unless_begun(request, error)
    except web.HTTPException as error:
        return _unless_begun(request, problem.of_http(error))
    except StoreUnavailable as error:
        log.warning("request failed, the store does not answer", path=request.path, error=str(error))
        return _unless_begun(request, problem.unavailable("the store does not answer"))
    except ConnectionError:
        raise  # nobody is there to be answered
    except Exception:
        log.exception("request failed", method=request.method, path=request.path)
        return _unless_begun(request, Problem("INTERNAL", "the error was logged"))


def _unless_begun(request: web.Request, error: Problem) -> web.StreamResponse:
    if request.writer.output_size > 0:
        raise ConnectionResetError("the answer has begun, it can only be cut off")
    return error.response()


def _check_size(request: web.Request) -> None:
    limit = request.app[CONFIG].limits.headers
    if sum(len(name) + len(value) + 4 for name, value in request.raw_headers) > limit:
        raise invalid("headers", f"the header lines have more than {limit} bytes together")
