"""A dispatcher's side, and nodes that connect to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.dispatcher_side import Dispatcher
from tests.contract.node_side import Containers, Running, StartNode


@pytest.fixture
async def dispatcher() -> AsyncIterator[Dispatcher]:
    async with Dispatcher().running() as running:
        yield running


@pytest.fixture
async def start(tmp_path: Path, dispatcher: Dispatcher) -> AsyncIterator[StartNode]:
    nodes: list[Running] = []

    def begin(urls: list[str] | None = None, containers: Containers | None = None, **others: Any) -> Running:
        nodes.append(Running(tmp_path, urls or [dispatcher.url], containers or Containers(), **others))
        return nodes[-1]

    yield begin
    for node in nodes:
        node.task.cancel()
        await asyncio.wait([node.task])
