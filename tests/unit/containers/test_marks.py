"""Which containers may be taken up after a crash of the agent."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agent.containers.marks import Marks


async def test_a_mark_that_is_to_come_soon_comes_unless_it_is_untrue_by_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is lent again at once costs no file; what stays idle is marked."""
    monkeypatch.setattr("agent.containers.marks.SOON_SECONDS", 0.01)
    marks = Marks(tmp_path)
    marks.mark_soon("lent")
    marks.mark_soon("idle")
    marks.unmark("lent")
    async with asyncio.timeout(5):
        while marks.names() != {"idle"}:
            await asyncio.sleep(0.01)


async def test_an_adopted_container_that_is_lent_at_once_has_no_mark(tmp_path: Path) -> None:
    """It had one from before the crash, and was to be marked soon: after another crash it must not pass for idle."""
    Marks(tmp_path).mark("adopted")
    marks = Marks(tmp_path)
    marks.mark_soon("adopted")
    marks.unmark("adopted")
    assert marks.names() == set()
