"""A store of each kind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from dispatcher.store.base import (
    Store,
)
from tests.contract.store.stores import STORES


@pytest.fixture(params=STORES)
def make(request: pytest.FixtureRequest) -> Callable[[Path], Store]:
    return STORES[request.param]


@pytest.fixture
async def store(make: Callable[[Path], Store], tmp_path: Path) -> AsyncIterator[Store]:
    subject = make(tmp_path)
    await subject.open()
    yield subject
    await subject.close()
