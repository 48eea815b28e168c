"""Tests of the settled garbage collector."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from agent import collector


class _Cycle:
    def __init__(self) -> None:
        self.myself = self


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)


def test_cycles_made_later_are_still_freed_by_themselves() -> None:
    """What becomes garbage while the process serves goes, without anybody asking for it."""
    collector.settle()
    gone = weakref.ref(_Cycle())
    kept: list[list[None]] = [[] for _ in range(2 * collector.YOUNG)]
    assert kept
    assert gone() is None


def test_what_the_start_made_is_not_looked_at_again() -> None:
    """The objects of the start are out of the collector's sight."""
    before = [_Cycle()]
    collector.settle()
    assert not any(each is before[0] for each in gc.get_objects())
