"""The events of a task, through breaks of the connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from agent.cli.client import Client, Event
from agent.cli.errors import Refused, Unreachable

SILENT_SECONDS = 60.0
"""A stream that says nothing for so long, not even a sign of life, is opened anew."""

BROKEN_SECONDS = 15.0
"""A stream that cannot be opened again for so long is given up."""

RETRY_SECONDS = 1.0


async def events_of(client: Client, task_id: str) -> AsyncIterator[Event]:
    """Give the events of a task to its ``end``. A stream that breaks is taken up after the last event seen.

    Raises:
        Refused: There is no such task.
        Unreachable: The stream broke, and the dispatcher did not come back.
    """
    clock = asyncio.get_running_loop().time
    last, heard = "", clock()
    while True:
        broken: Unreachable | None = None
        try:
            async for event in client.events(task_id, SILENT_SECONDS, after=last):
                last, heard = event.id or last, clock()
                yield event
                if event.kind == "end":
                    return
        except Unreachable as error:
            broken = error
        except Refused as error:
            if error.code != "UNAVAILABLE":
                raise
            broken = Unreachable(error.message)
        if clock() - heard > BROKEN_SECONDS:
            raise broken or Unreachable("the event stream ended before the task did")
        await asyncio.sleep(RETRY_SECONDS)
