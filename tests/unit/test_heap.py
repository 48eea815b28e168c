"""Tests of the settled garbage collector, and of memory that goes back."""

from __future__ import annotations

import ctypes
import gc
import weakref
from collections.abc import Iterator

import psutil
import pytest

from agent import heap

MIB = 2**20


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
    heap.settle()
    gone = weakref.ref(_Cycle())
    kept: list[list[None]] = [[] for _ in range(2 * heap.YOUNG)]
    assert kept
    assert gone() is None


def test_what_the_start_made_is_not_looked_at_again() -> None:
    """The objects of the start are out of the collector's sight."""
    before = [_Cycle()]
    heap.settle()
    assert not any(each is before[0] for each in gc.get_objects())


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library keeps nothing back")
def test_what_a_busy_moment_needed_goes_back() -> None:
    """The last piece stays and holds the heap's end where it is; what lies before it is the kernel's again."""

    def resident() -> int:
        return int(psutil.Process().memory_info().rss)

    pieces = [bytes(1000) for _ in range(64 * MIB // 1000)]
    last = pieces[-1]
    del pieces
    before = resident()
    heap.give_back()
    assert before - resident() > 48 * MIB
    assert len(last) == 1000
