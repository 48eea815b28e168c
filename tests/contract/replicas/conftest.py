"""Two dispatchers over one PostgreSQL, as processes, and what speaks to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests import postgres
from tests.contract.replicas.pair import Pair, Replica


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """Two dispatchers that listen and know of each other."""
    url = postgres.shared().schema(postgres.name_of(tmp_path))
    a, b = Replica("a", tmp_path, url), Replica("b", tmp_path, url)
    async with aiohttp.ClientSession(auto_decompress=False) as http:
        await a.start()
        met = asyncio.create_task(a.logged("another dispatcher shares the store"))
        await b.start()
        await met
        yield Pair(a, b, http)
        for replica in (a, b):
            await replica.close()
