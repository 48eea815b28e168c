"""The real application on a real socket over a real SQLite store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from dispatcher.app import build
from dispatcher.auth import new_token, token_hash
from dispatcher.cli import listening
from dispatcher.config import DispatcherConfig
from dispatcher.ids import Ids
from dispatcher.store.access import Account, Scope, Token
from dispatcher.store.sqlite import SqliteStore
from tests.contract.http_api.api import CONFIG, Api, Node, Serve


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:

        async def start(config: DispatcherConfig) -> Api:
            store = SqliteStore(tmp_path / "dispatcher.sqlite", synchronous="normal")
            await store.open()
            stack.push_async_callback(store.close)
            url = await stack.enter_async_context(listening(build(config, store), config))
            http = await stack.enter_async_context(aiohttp.ClientSession(auto_decompress=False))
            return Api(http, url, await account(store, "default"), store)

        yield start


@pytest.fixture
async def api(serve: Serve) -> Api:
    return await serve(CONFIG)


@pytest.fixture
async def stranger(api: Api) -> Api:
    """A caller who has another account."""
    return Api(api.http, api.url, await account(api.store, "stranger"), api.store)


@pytest.fixture
async def node(api: Api) -> AsyncIterator[Node]:
    joined = Node(api, *await api.join())
    await joined.open()
    yield joined
    await joined.ws.close()


async def account(store: SqliteStore, name: str) -> str:
    """Make an account and give its token. The account `default` administers, as the first one does."""
    secret = new_token()
    await store.add_account(Account(name, name, administers=name == "default"))
    await store.add_token(Token(Ids().new(), name, "test", frozenset(Scope), 0), token_hash(secret))
    return secret
