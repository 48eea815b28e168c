"""A short run of the benches of many nodes: they work, nothing is lost, and the figures are not far off."""

from __future__ import annotations

import pytest

from benches import fleet, fleet_faults, offers

pytestmark = pytest.mark.timeout(120)


async def test_a_herd_comes_back_and_nothing_is_lost() -> None:
    """Two hundred nodes lose their connection at once, under load."""
    found = await fleet.measure(200, 2.0, 50.0, settle_seconds=1.0, idle_seconds=1.0)
    assert found["audit"]["tasks"] > 100
    assert (found["audit"]["lost"], found["audit"]["doubled"]) == (0, 0)
    assert found["herd_back_seconds"] < 60
    assert found["kib_a_node"] < 60


async def test_what_faults_do_to_many_nodes_is_audited() -> None:
    """Links that break and a primary that dies, under load on two dispatchers: all nodes come back, nothing is lost."""
    faults = ("a tenth of the links broken five times", "primary killed, standby promoted")
    found = await fleet_faults.measure(100, 50.0, 3.0, faults)
    for fault in faults:
        assert found[fault]["tasks"] > 50
        assert (found[fault]["lost"], found[fault]["doubled"], found[fault]["refused"]) == (0, 0, 0)
        assert found[fault]["back_seconds"] < 60


async def test_an_offer_costs_the_same_with_many_nodes_and_tasks() -> None:
    """With wide margins, for machines that are busy: a scan of a hundred times as many would be seen."""
    figures = await offers.run({}, nodes=1000, queued=100_000, offers=60, rounds=3)
    assert all(figure.measured < 3 for figure in figures)
