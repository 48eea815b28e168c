"""Two dispatchers over one PostgreSQL, as processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests import postgres
from tests.chaos.programs import Dispatcher
from tests.contract.http_api.api import Api, Node


class Replica(Dispatcher):
    """One of several dispatchers."""

    def __init__(self, name: str, directory: Path, database: str, **settings: str) -> None:
        environ = {"FERND_STORE_DATABASE": database, "FERND_LOG_LEVEL": "debug", **settings}
        super().__init__(directory / name, environ)
        (directory / name).mkdir()
        self.name = name


@dataclass
class Pair:
    """Both of them, with one account."""

    a: Replica
    b: Replica
    http: aiohttp.ClientSession

    def api(self, replica: Replica) -> Api:
        """Give a caller of one of them. Its token was written by the one that started first."""
        return Api(self.http, replica.url, self.a.token, NO_STORE)

    async def node(self, replica: Replica, **opening: Any) -> Node:
        """Join a node and open its session with one of them."""
        api = self.api(replica)
        node = Node(api, *await api.join())
        await node.open(**opening)
        return node

    async def function(self, **more: Any) -> str:
        """Make a function."""
        return await self.api(self.a).function(**more)


@asynccontextmanager
async def two(directory: Path, **settings: str) -> AsyncIterator[Pair]:
    """Start two dispatchers that listen and know of each other."""
    url = postgres.shared().schema(postgres.name_of(directory))
    a, b = Replica("a", directory, url, **settings), Replica("b", directory, url, **settings)
    async with aiohttp.ClientSession(auto_decompress=False) as http:
        await a.start()
        met = asyncio.create_task(a.logged("another dispatcher shares the store"))
        await b.start()
        await met
        yield Pair(a, b, http)
        for replica in (a, b):
            await replica.close()


NO_STORE: Any = None
"""These callers see no store: it is in other processes."""
