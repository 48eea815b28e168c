"""The memory of a process that serves for a long time, for both programs.

Python's garbage collector looks for cycles among objects each time that some hundreds more were made than went, and now
and then among all of them. What was made at the start stays until the end, and a task leaves hardly any cycle behind:
most of that looking is in vain.
"""

from __future__ import annotations

import ctypes
import gc

YOUNG = 10_000
"""Objects that may be made beyond those that went, before the collector looks for cycles; Python's default is 700."""


def settle() -> None:
    """Look no more at what is there now, and seldom at the rest. To be called once, when the process serves."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG)


def give_back() -> None:
    """Give the kernel what the C library keeps of memory that nobody needs any more.

    By itself it keeps most of what the busiest moment needed, for ever. Nothing happens where it cannot be asked to
    (malloc_trim is of the GNU library). It takes some milliseconds.
    """
    if _trim is not None:
        _trim(0)


_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
