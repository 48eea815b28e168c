"""What the handlers share, as typed keys of the application."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from dispatcher.auth import Principal
from dispatcher.config import DispatcherConfig
from dispatcher.core import Core
from dispatcher.ids import Ids
from dispatcher.throttle import Throttle

CONFIG = web.AppKey("CONFIG", DispatcherConfig)
CORE = web.AppKey("CORE", Core)
IDS = web.AppKey("IDS", Ids)
WALL: web.AppKey[Callable[[], float]] = web.AppKey("WALL")
STOPPING = web.AppKey("STOPPING", asyncio.Event)
"""Set when the dispatcher stops: whoever waits for something then answers at once."""

OPENAPI = web.AppKey("OPENAPI", bytes)
LARGE_JSON = web.AppKey("LARGE_JSON", asyncio.Semaphore)
"""Permits to hold a large body in memory while it is checked to be JSON."""

LOG_INS: web.AppKey[Throttle] = web.AppKey("LOG_INS")
"""How often log-ins have failed, by the address that they came from."""

PRINCIPAL: web.RequestKey[Principal] = web.RequestKey("PRINCIPAL", Principal)
"""Who sent a request, where its route needs a token."""


def now_ms(app: web.Application) -> int:
    """Give the time in milliseconds since the epoch."""
    return int(app[WALL]() * 1000)
