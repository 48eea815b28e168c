"""Keeps the journal usable: opened at the start, however long that takes, and looked after from then on.

A disk that is full is no reason for the agent to end. It takes no work, says why, and goes on when
there is room.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import structlog

from agent.availability import Availability
from agent.journal import Journal, JournalUnavailable, Kept
from agent.vitals import Vitals

LOOK_SECONDS = 5.0
"""Between two looks at the journal."""


class JournalWatch:
    """Keeps `Availability` true to the journal."""

    def __init__(self, journal: Journal, availability: Availability, vitals: Vitals) -> None:
        self._journal = journal
        self._availability = availability
        self._vitals = vitals
        self._log = structlog.get_logger()

    async def open(self) -> list[Kept]:
        """Open the journal, as soon as it can be used, and give what is left in it.

        Nothing can be said to a dispatcher before that: what the node holds is not known.

        Raises:
            JournalError: Waiting would not help.
        """
        said = ""
        while True:
            self._vitals.beat("journal")
            try:
                kept = await self._journal.open()
            except JournalUnavailable as error:
                self._availability.block("journal", str(error))
                if str(error) != said:
                    said = str(error)
                    self._log.error("the node waits for its journal", reason=said)
                await asyncio.sleep(LOOK_SECONDS)
            else:
                self._tell()
                return kept

    async def run(self, looked: Callable[[], None]) -> NoReturn:
        """Look after the journal.

        Args:
            looked: Called after each look.
        """
        clock = asyncio.get_running_loop().time
        next_look = clock() + LOOK_SECONDS
        while True:
            self._vitals.beat("journal")
            with suppress(TimeoutError):
                async with asyncio.timeout_at(next_look):
                    await self._journal.changed.wait()
            if clock() >= next_look:
                await self._journal.look()
                looked()
                next_look = clock() + LOOK_SECONDS
            self._tell()

    def _tell(self) -> None:
        self._journal.changed.clear()
        if obstacle := self._journal.obstacle:
            self._availability.block("journal", obstacle)
        else:
            self._availability.clear("journal")
