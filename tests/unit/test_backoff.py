"""Waits between attempts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.backoff import full_jitter, retry_after


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_wait_is_within_its_bounds(failures: int, chance: float) -> None:
    """However many failures, the wait is from half a second to a minute."""
    assert 0.5 <= full_jitter(failures, lambda: chance) <= 60


def test_the_ceiling_doubles() -> None:
    """The longest possible waits are 1, 2, 4 seconds and so on; the shortest stays."""
    assert [full_jitter(failures, lambda: 1.0) for failures in range(1, 8)] == [1, 2, 4, 8, 16, 32, 60]
    assert full_jitter(7, lambda: 0.0) == 0.5


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("17", 17),
        ("-1", 0),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 0),
        ("9" * 5000, 3600),
        ("\u0663", 0),
    ],
)
def test_retry_after_is_read_with_care(header: str | None, seconds: float) -> None:
    """Seconds count, within an hour; everything else is as if it were not there."""
    assert retry_after(header) == seconds
