"""Two dispatchers over one PostgreSQL, as processes, and what speaks to them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.replicas.pair import Pair, two


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """Two dispatchers that listen and know of each other."""
    async with two(tmp_path) as started:
        yield started
