"""Clocks that stand still with the containers."""

from __future__ import annotations

import asyncio

import pytest

from agent.containers.freezer import Freezer


async def test_a_limit_does_not_count_frozen_time() -> None:
    """However long containers stand still, what is left of a limit is left afterwards, and then it ends."""
    freezer = Freezer()
    async with freezer.timeout(0.2):
        freezer.freeze()
        freezer.freeze()
        await asyncio.sleep(0.3)
        freezer.thaw()
    assert freezer.seconds >= 0.3
    stood = freezer.seconds
    with pytest.raises(TimeoutError):
        async with freezer.timeout(0.05):
            await asyncio.sleep(30)
    assert freezer.seconds == stood


async def test_a_limit_made_while_frozen() -> None:
    """It begins to count with the thaw."""
    freezer = Freezer()
    freezer.freeze()
    asyncio.get_running_loop().call_later(0.1, freezer.thaw)
    async with freezer.timeout(0.05):
        await freezer.until_thawed()
    assert freezer.seconds > 0


async def test_a_limit_that_is_over_stays_so() -> None:
    """A freeze that comes in the same moment as the end of a limit changes nothing."""
    freezer = Freezer()

    async def freeze_and_thaw_at_its_end() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            freezer.freeze()
            freezer.thaw()

    with pytest.raises(TimeoutError):
        async with freezer.timeout(0.01):
            await freeze_and_thaw_at_its_end()
