"""Runs a command's work with a client of the dispatcher that the user means.

The HTTP library is imported here, when a command runs, so that ``--help`` and usage errors do not
wait for it.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from agent.cli import profile
from agent.cli.errors import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from agent.cli.client import Client

T = TypeVar("T")


def connected(work: Callable[[Client], Awaitable[T]], endpoint: profile.Endpoint | None = None) -> T:
    """Run work to its end. Ctrl-C cancels it and ends the process with 130.

    Args:
        work: Gets the client.
        endpoint: The dispatcher; by default the one of the environment or of the profile.
    """
    import asyncio  # noqa: PLC0415 - see the module's docstring

    from agent.cli.client import Client  # noqa: PLC0415

    chosen = endpoint or profile.find()

    async def run() -> T:
        async with Client(chosen) as client:
            return await work(client)

    try:
        return asyncio.run(run())
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
