"""Whose turn it is, seen through `Matching`: nodes with one free slot at a time, and accounts that want much."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.protocol import Capabilities, Credit, Revision
from dispatcher.matching import Match, Matching

ROOM = Capabilities(64, 65_536)
functions = st.lists(st.integers(1, 4), min_size=1, max_size=12)
"""Of each function of an account, the CPUs that it asks for: as many kinds of requirements as there are numbers."""


def revisions(account: str, cpus: list[int]) -> list[Revision]:
    return [
        Revision(f"{account.encode().hex():0>12}{number:012x}", 1, "image", cpu_count=cpu)
        for number, cpu in enumerate(cpus)
    ]


def one_by_one(subject: Matching, cpus: int = 64) -> Iterator[Match]:
    """Give room for one task after the other."""
    offers = 0
    subject.node_joined("n", ROOM, Credit(), [], [])
    while True:
        subject.node_changed("n", credit=Credit(cpus, 65_536, 1, offers_seen=offers))
        match = subject.next(0)
        if match is None:
            return
        offers = match.number
        yield match


@settings(deadline=None)
@given(functions, functions, st.integers(1, 20), st.integers(0, 30))
def test_a_small_account_waits_for_one_task_of_a_large_one_at_a_time(
    large: list[int], small: list[int], tasks: int, before: int
) -> None:
    """Of k tasks the last goes after k + 1 of the other account at most, however much that asks for and how."""
    subject = Matching(random.Random(1))
    for revision in revisions("large", large):
        subject.added(revision, "large", 1000)
    matches = one_by_one(subject)
    for _ in range(before):
        next(matches)
    wanted = revisions("small", small)
    for number in range(tasks):
        subject.added(wanted[number % len(wanted)], "small")
    served: Counter[str] = Counter()
    while served["small"] < tasks:
        served[next(matches).account] += 1
        assert served["large"] <= served["small"] + 1


@settings(deadline=None)
@given(st.lists(functions, min_size=1, max_size=5), st.data())
def test_nobody_starves(accounts: list[list[int]], data: st.DataObject) -> None:
    """Every revision that waits is served again and again, whichever others its account, and others, have."""
    subject = Matching(random.Random(1))
    for number, cpus in enumerate(accounts):
        for revision in revisions(str(number), cpus):
            subject.added(revision, str(number), 10_000)
    kinds = max(len(set(cpus)) for cpus in accounts)
    most = max(Counter(cpus).most_common(1)[0][1] for cpus in accounts)
    rounds = len(accounts) * kinds * most
    matches = one_by_one(subject)
    for _ in range(data.draw(st.integers(0, 50))):
        next(matches)
    served = {next(matches).revision.key for _ in range(2 * rounds)}
    assert served == {revision.key for number, cpus in enumerate(accounts) for revision in revisions(str(number), cpus)}


def test_what_does_not_fit_does_not_hold_up_its_account() -> None:
    """An account whose turn it is gets it with what there is room for, and keeps its place for the rest."""
    subject = Matching(random.Random(1))
    big, little = revisions("a", [32, 1])
    subject.added(big, "a", 10)
    subject.added(little, "a", 10)
    subject.added(revisions("b", [1])[0], "b", 10)
    narrow = one_by_one(subject, cpus=2)
    assert Counter(next(narrow).account for _ in range(8)) == {"a": 4, "b": 4}
    subject.node_left("n")
    wide = one_by_one(subject)
    first = next(match for match in wide if match.account == "a")
    assert first.revision == big


def test_an_account_that_comes_and_goes_does_not_jump_the_queue() -> None:
    """Who has one task at a time, again and again, gets every second turn, and not every one."""
    subject = Matching(random.Random(1))
    subject.added(revisions("large", [1])[0], "large", 100)
    matches = one_by_one(subject)
    served: Counter[str] = Counter()
    waits = False
    for _ in range(40):
        if not waits:
            subject.added(revisions("small", [1])[0], "small")
        account = next(matches).account
        waits = account != "small"
        served[account] += 1
    assert abs(served["small"] - served["large"]) <= 1
