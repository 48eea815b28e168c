"""What is made once for all who ask within a short time."""

from __future__ import annotations

import asyncio

import pytest

from dispatcher.fresh import Fresh


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_a_value_is_made_once_for_all_who_ask() -> None:
    """Those who ask at the same time, or soon after, share it; later, or by another key, it is made anew."""
    clock = Clock()
    made: list[None] = []

    async def make() -> int:
        made.append(None)
        await asyncio.sleep(0)
        return len(made)

    fresh = Fresh[int](2, clock)
    assert [*await asyncio.gather(fresh.get("a", make), fresh.get("a", make))] == [1, 1]
    clock.now = 1.9
    assert await fresh.get("a", make) == 1
    assert await fresh.get("b", make) == 2
    clock.now = 2.0
    assert await fresh.get("a", make) == 3


async def test_a_failure_is_not_kept() -> None:
    """Whoever asks next tries again."""

    async def fail() -> int:
        raise OSError("no disk")

    async def work() -> int:
        return 1

    fresh = Fresh[int](2, Clock())
    with pytest.raises(OSError, match="no disk"):
        await fresh.get("a", fail)
    await asyncio.sleep(0)
    assert await fresh.get("a", work) == 1


async def test_who_gives_up_takes_it_from_nobody() -> None:
    """The making goes on for the others when one of those who wait is cancelled."""
    go = asyncio.Event()

    async def make() -> int:
        await go.wait()
        return 1

    fresh = Fresh[int](2, Clock())
    first = asyncio.create_task(fresh.get("a", make))
    second = asyncio.create_task(fresh.get("a", make))
    await asyncio.sleep(0)
    first.cancel()
    go.set()
    assert await second == 1
