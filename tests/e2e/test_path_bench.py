"""A short run of the bench of the warm path: it works, every answer is right, and the ratios are not far off."""

from __future__ import annotations

import pytest

from benches.path import measure

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]


async def test_a_warm_task_costs_what_it_should() -> None:
    """With wide margins, for machines that are slow or busy: it notices when the path became many times longer."""
    rows = {row["callers"]: row for row in await measure(1.0, [4, 16])}
    assert rows[4]["ratio"] > 0.03
    assert rows[16]["ratio"] > 0.02
    assert rows[16]["through_per_second"] > rows[4]["through_per_second"] / 2
    assert rows[16]["p99_ms"] / rows[16]["p50_ms"] < 20
    own = rows[16]["dispatcher_cpu_ms"] + rows[16]["agent_cpu_ms"]
    assert own < 5
    assert own / rows[16]["client_cpu_ms"] < 12  # 4 to 7, on a busy machine too
