"""How long to wait before the next attempt: exponential with full jitter.

The wait lies anywhere below a ceiling that doubles, so that a fleet that lost its dispatcher at the
same moment does not come back in step.
"""

from __future__ import annotations

from collections.abc import Callable

SHORTEST = 0.5
LONGEST = 60.0


def full_jitter(
    failures: int, random: Callable[[], float], shortest: float = SHORTEST, longest: float = LONGEST
) -> float:
    """Give the seconds to wait after so many failures in a row, the first being 1.

    Args:
        random: Gives a number from 0 to 1.
    """
    ceiling = min(longest, shortest * 2.0 ** min(failures, 30))
    return shortest + random() * (ceiling - shortest)


def retry_after(header: str | None) -> float:
    """Read the seconds of a ``Retry-After`` header; 0 where it names none, or a date."""
    if header is None or not (header.isascii() and header.isdigit()):
        return 0.0
    return float(min(int(header[:9]), 3600))
