"""What makes fernd fast, guarded with wide margins and by ratios alone: machines differ, and are busy."""

from __future__ import annotations

from typing import Any

import pytest

from benches import cold_start

pytestmark = pytest.mark.engine


async def test_cold_start() -> None:
    """A first task takes not much longer than its container by hand; with one kept ready, a fraction of that."""
    details: dict[str, Any] = {}
    cold, ready = await cold_start.run(details, rounds=3, warm_rounds=2)
    assert cold.measured < 2, details
    assert ready.measured < 0.3, details
