from __future__ import annotations

import random
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.protocol import Capabilities, Credit, Lease, Revision
from dispatcher.leases import LeaseTable
from dispatcher.matching import Match, Matching
from dispatcher.running import Running

ROOM = Capabilities(64, 65_536)
REVISION = Revision("6404b3da46551827c611ffe5", 1, "image")


def test_what_others_hold_counts_too() -> None:
    """An account is full by what all dispatchers hold together; who is gone holds nothing any more."""
    here, there = Running({"a": 3}.get), Running({"a": 3}.get)
    woken: list[str] = []
    here.has_room = woken.append
    here.changed = there.changed = lambda: None
    here.began("a")
    there.began("a")
    there.began("a")
    there.began("without a limit")
    assert not here.is_full("a")
    news = there.news()
    assert news == {"a": 2}
    here.heard("there", news)
    assert here.is_full("a")
    there.ended("a")
    here.heard("there", there.news())
    assert (here.is_full("a"), woken) == (False, ["a"])
    there.began("a")
    here.heard("there", there.news())
    here.gone("there")
    assert (here.of("a"), woken) == (1, ["a", "a"])


def test_who_comes_later_is_told_everything() -> None:
    """What was told to the others before is told again, of those accounts that have a limit."""
    running = Running({"a": 3}.get)
    running.changed = lambda: None
    running.began("a")
    running.began("b")
    assert running.news() == {"a": 1}
    assert running.news() == {}
    running.tell_all()
    assert running.news() == {"a": 1}


class Machine(RuleBasedStateMachine):
    """Tasks of two accounts, of which one is limited, are matched, offered, and end, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.limit: int | None = 2
        self.running = Running(lambda account: self.limit if account == "limited" else None)
        self.matching = Matching(random.Random(1), self.running)
        self.running.has_room = self.matching.has_room
        self.leases = LeaseTable(self.running)
        self.waiting: Counter[str] = Counter()
        self.matched: list[Match] = []
        self.held: list[tuple[Lease, str]] = []
        self.count = 0
        self.matching.node_joined("n", ROOM, Credit(64, 65_536, 64), [], [])

    @rule(account=st.sampled_from(["limited", "free"]), kind=st.integers(1, 2), count=st.integers(1, 4))
    def wait(self, account: str, kind: int, count: int) -> None:
        function = f"{len(account):012x}{kind:012x}"
        self.matching.added(Revision(function, 1, "image", cpu_count=0.1 * kind, mem_size=6), account, count)
        self.waiting[account] += count

    @rule()
    def match(self) -> None:
        match = self.matching.next(0)
        if match is None:
            assert not self.waiting["free"] or len(self.matched) + len(self.held) == 64
            assert not self.waiting["limited"] or self.full or len(self.matched) + len(self.held) == 64
            return
        assert match.account != "limited" or not self.full
        self.waiting[match.account] -= 1
        self.matched.append(match)

    @rule(found=st.booleans())
    def claim(self, found: bool) -> None:
        if not self.matched:
            return
        match = self.matched.pop(0)
        if not found:
            self.matching.settle(match)
            return
        self.count += 1
        lease = Lease(f"{self.count:024x}", 1, self.count.to_bytes(16))
        self.leases.grant(lease, match.account, "n", REVISION, now=0)
        self.matching.offered(match)
        self.held.append((lease, match.account))

    @rule()
    def end(self) -> None:
        if self.held:
            self.leases.drop(self.held.pop(0)[0])
            self.matching.node_changed("n", credit=Credit(64, 65_536, 64, offers_seen=1_000_000))

    @rule(limit=st.sampled_from([None, 1, 2, 5]))
    def set_limit(self, limit: int | None) -> None:
        self.limit = limit
        self.running.limits_changed(["limited"])

    @property
    def full(self) -> bool:
        return self.limit is not None and self.counted("limited") >= self.limit

    def counted(self, account: str) -> int:
        return [one.account for one in self.matched].count(account) + [one for _, one in self.held].count(account)

    @invariant()
    def every_task_counts_once(self) -> None:
        for account in ("limited", "free"):
            assert self.running.of(account) == self.counted(account)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
