"""Permits are exact, whatever is taken and given back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.admission import Amount, Permit, Permits, account_share, capacity
from agent.config import AccountsConfig, CapacityConfig

ACCOUNT = "account"


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 8), st.integers(0, 4096)), max_size=60))
def test_free_is_never_negative_and_all_comes_back(steps: list[tuple[bool, float, int]]) -> None:
    """Whatever is taken and released, also twice, the sum stays the capacity."""
    whole = Amount(4000, 2048, 5)
    permits = Permits(whole, whole)
    taken: list[Permit] = []
    for release, cpus, memory in steps:
        if release and taken:
            permit = taken.pop()
            permit.release()
            permit.release()
        elif (new := permits.try_take(cpus, memory, ACCOUNT)) is not None:
            taken.append(new)
        free = permits.free
        assert min(free.millicpus, free.memory, free.slots) >= 0
        assert free.slots == whole.slots - len(taken)
    for permit in taken:
        permit.release()
    assert permits.free == whole


def test_a_permit_that_does_not_fit_takes_nothing() -> None:
    """Each of cpu, memory and slots can refuse, and an amount below nothing is refused too."""
    whole = Amount(2000, 512, 1)
    permits = Permits(whole, whole)
    assert permits.try_take(2.5, 1, ACCOUNT) is None
    assert permits.try_take(1, 513, ACCOUNT) is None
    assert permits.try_take(-1, 1, ACCOUNT) is None
    assert permits.free == Amount(2000, 512, 1)
    with permits.try_take(1, 1, ACCOUNT) or pytest.fail("it fits"):
        assert permits.try_take(1, 1, ACCOUNT) is None
    assert permits.free == Amount(2000, 512, 1)


def test_the_machine_keeps_a_reserve() -> None:
    """A tenth of a small machine, 512 MiB of a large one; what the operator says holds."""
    assert capacity(CapacityConfig(), 2, 1000) == Amount(2000, 900, 8)
    assert capacity(CapacityConfig(), 16, 64_000) == Amount(16_000, 63_488, 64)
    assert capacity(CapacityConfig(cpu=0.5, memory=100, slots=1), 16, 64_000) == Amount(500, 100, 1)


def test_an_account_has_no_more_than_its_share() -> None:
    """CPUs, memory and tasks of one account are limited each; others have what is left; what ends makes room."""
    whole = Amount(4000, 1024, 8)
    for config, cpus, memory in (
        (AccountsConfig(cpu=1.5), 1.0, 100),
        (AccountsConfig(memory=150), 0.1, 100),
        (AccountsConfig(slots=1), 0.1, 10),
    ):
        permits = Permits(whole, account_share(config, whole))
        first = permits.try_take(1, 100, "one")
        assert first is not None
        assert permits.is_beyond_share(cpus, memory, "one")
        assert permits.try_take(cpus, memory, "one") is None
        assert permits.try_take(cpus, memory, "other") is not None
        first.release()
        assert permits.try_take(cpus, memory, "one") is not None
