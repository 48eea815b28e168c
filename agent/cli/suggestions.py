"""What a shell may complete beyond commands and options: names of functions, ids of tasks and nodes.

The dispatcher is asked, and not waited for: whoever presses Tab gets nothing sooner than an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from agent.cli.client import Client

SECONDS = 2.0

MOST = 100
"""So many are asked for: the newest."""

Suggest = Callable[[click.Context, click.Parameter, str], list[str]]


def _from_list(kind: str, key: str) -> Suggest:
    def suggest(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
        return [value for value in _values(kind, key) if value.startswith(begun)]

    return suggest


def _values(kind: str, key: str) -> list[str]:
    import asyncio  # noqa: PLC0415 - only for a shell that asks

    from agent.cli.connection import connected  # noqa: PLC0415 - likewise

    async def work(client: Client) -> list[dict[str, Any]]:
        async with asyncio.timeout(SECONDS):
            return await anext(client.pages(kind, {"limit": MOST}))

    try:
        return [str(found[key]) for found in connected(work)]
    except (click.ClickException, TimeoutError, OSError, LookupError, TypeError):
        return []


functions = _from_list("function", "name")
nodes = _from_list("node", "hash")
tasks = _from_list("task", "id")
