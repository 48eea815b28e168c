from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.protocol import Capabilities, Credit, Revision
from dispatcher.matching import KEPT_CLASSES, PARK_SECONDS, STAY_SECONDS, Match, Matching, SampledSet

ACCOUNT = "account"
FUNCTION = "6404b3da46551827c611ffe5"
ROOMY = Credit(cpu=4, memory=4096, slots=8)
BIG = Capabilities(cpu_count=4, mem_size=4096)


def revision(number: int = 1, **fields: object) -> Revision:
    return Revision(FUNCTION, number, f"image-{number}", **fields)  # type: ignore[arg-type]


def matching() -> Matching:
    return Matching(random.Random(7))


def drain(subject: Matching, now: float = 0) -> list[Match]:
    found = []
    while (match := subject.next(now)) is not None:
        found.append(match)
    return found


def test_without_credit_a_node_is_offered_nothing() -> None:
    """Credit is the pull: a node with no slot, or too little cpu or memory, gets no match."""
    for credit in (Credit(4, 4096, 0), Credit(0.5, 4096, 8), Credit(4, 255, 8)):
        subject = matching()
        subject.node_joined("n", BIG, credit, [], [])
        subject.added(revision(), ACCOUNT)
        assert subject.next(0) is None


def test_matches_stop_where_the_credit_ends() -> None:
    """Offers under way are taken off the credit, so four CPUs take four tasks of one CPU each."""
    subject = matching()
    subject.node_joined("n", BIG, ROOMY, [], [])
    subject.added(revision(), ACCOUNT, 10)
    assert [match.number for match in drain(subject)] == [1, 2, 3, 4]


def test_credit_that_crosses_an_offer_is_not_spent_twice() -> None:
    """A credit that was sent before the node saw the last offers leaves those offers taken off."""
    subject = matching()
    subject.node_joined("n", BIG, ROOMY, [], [])
    subject.added(revision(), ACCOUNT, 10)
    assert len(drain(subject)) == 4
    subject.node_changed("n", credit=Credit(2, 2048, 6, offers_seen=2))
    assert drain(subject) == []
    subject.node_changed("n", credit=Credit(1, 2048, 6, offers_seen=4))
    assert len(drain(subject)) == 1


def test_requirements_exclude_nodes_and_are_named() -> None:
    """A node that lacks what a revision asks for is never chosen, and what nobody meets is said."""
    subject = matching()
    subject.node_joined("n", BIG, ROOMY, [], [])
    cases: list[tuple[dict[str, object], str]] = [
        ({"cpu_count": 64}, "cpuCount 64"),
        ({"mem_size": 65536}, "memSize 65536 MiB"),
        ({"network_latency": 5}, "networkLatency 5 ms"),
        ({"privileged": True}, "privileged"),
        ({"network": "internet"}, "network internet"),
    ]
    for number, (fields, named) in enumerate(cases, 2):
        asked = revision(number, **fields)
        subject.added(asked, ACCOUNT)
        assert subject.next(0) is None
        assert named in {revision.key: str(lack) for revision, _, lack in subject.lacks()}[asked.key]
        subject.fewer(asked.key, 1)
    subject.added(revision(), ACCOUNT)
    assert [lack for _, _, lack in subject.lacks()] == [None]


def test_a_task_that_fits_nobody_does_not_hold_up_others() -> None:
    """The first in the queue asks for too much; the second is matched all the same."""
    subject = matching()
    subject.node_joined("n", BIG, ROOMY, [], [])
    subject.added(revision(1, cpu_count=64), ACCOUNT, 100)
    subject.added(revision(2), ACCOUNT)
    assert [match.revision.number for match in drain(subject)] == [2]


def test_warm_is_preferred_to_image_and_image_to_nothing() -> None:
    """Preference goes by warm container, then image, whatever the load."""
    subject = matching()
    subject.node_joined("bare", BIG, ROOMY, [], [])
    subject.node_joined("image", BIG, Credit(2, 4096, 8), ["image-1"], [])
    subject.node_joined("warm", BIG, Credit(1, 4096, 8), ["image-1"], [revision().key])
    subject.added(revision(), ACCOUNT, 4)
    assert [match.node for match in drain(subject)] == ["warm", "image", "image", "bare"]


def test_a_node_that_declined_is_left_alone_for_a_while() -> None:
    """A decline sends the task to another node, and the first is asked again when its time is over."""
    subject = matching()
    subject.node_joined("a", BIG, ROOMY, [], [revision().key])
    subject.node_joined("b", BIG, ROOMY, [], [])
    subject.node_declined("a", revision().key, until=5)
    subject.added(revision(), ACCOUNT)
    match = subject.next(0)
    assert match is not None
    assert match.node == "b"
    subject.node_left("b")
    subject.added(revision(), ACCOUNT)
    assert subject.next(0) is None
    assert subject.wake_at(0) == PARK_SECONDS
    assert subject.next(5) is not None


def test_an_account_that_was_declined_is_declined_whatever_it_asks_for() -> None:
    """The node is asked for none of the account's revisions for a while, and for those of others all the same."""
    subject = matching()
    subject.node_joined("n", BIG, ROOMY, [], [])
    subject.node_declined("n", ACCOUNT, until=5)
    for number in (1, 2):
        subject.added(revision(number), ACCOUNT)
    subject.added(revision(3), "other")
    assert [match.account for match in drain(subject)] == ["other"]
    assert [match.revision.number for match in drain(subject, now=5)] == [1, 2]


def test_what_was_asked_for_once_is_not_remembered() -> None:
    """A node that could serve everything that was ever asked for looks only at what is asked for now, more or less."""
    subject = matching()
    subject.node_joined("n", Capabilities(4, 1_000_000), Credit(4, 1_000_000, 8), [], [])
    subject.added(revision(1, cpu_count=64), ACCOUNT)
    for number in range(2, 1000):
        subject.added(revision(number, mem_size=number), ACCOUNT)
        [match] = drain(subject)
        subject.settle(match)
    assert len(subject._classes) <= 2 * KEPT_CLASSES
    assert len(subject._nodes["n"].shape.fits) <= 2 * KEPT_CLASSES
    assert [asked.number for asked in subject.waiting()] == [1]


def test_a_claim_that_found_fewer_corrects_the_count() -> None:
    """Tasks that are gone from the store cost one claim; tasks added since are not forgotten."""
    subject = matching()
    subject.node_joined("n", BIG, ROOMY, [], [])
    subject.added(revision(), ACCOUNT, 100)
    first = subject.next(0)
    assert first is not None
    mark = subject.mark_of(revision().key)
    subject.added(revision(), ACCOUNT)
    subject.settle(first)
    subject.found_fewer(revision().key, mark)
    assert len(drain(subject)) == 1


def test_a_match_of_an_earlier_session_is_void() -> None:
    """What was matched before a node came back neither counts nor is let go in its new session."""
    subject = matching()
    subject.node_joined("n", BIG, ROOMY, [], [])
    subject.added(revision(), ACCOUNT, 10)
    old = subject.next(0)
    assert old is not None
    assert subject.is_held(old)
    subject.node_joined("n", BIG, ROOMY, [], [])
    assert not subject.is_held(old)
    subject.settle(old)
    assert len(drain(subject)) == 4


def test_credit_that_was_overtaken_says_nothing() -> None:
    """An older figure that arrives after a newer one does not bring back room that is taken."""
    subject = matching()
    subject.node_joined("n", BIG, ROOMY, [], [])
    subject.added(revision(), ACCOUNT, 10)
    drain(subject)
    subject.node_changed("n", credit=Credit(0, 0, 4, offers_seen=4))
    subject.node_changed("n", credit=Credit(3, 3000, 7, offers_seen=1))
    assert subject.next(0) is None


def test_a_recount_takes_over_what_the_store_says() -> None:
    """Tasks that ended while they waited are forgotten, unknown ones are found, new ones are kept."""
    subject = matching()
    subject.added(revision(1), ACCOUNT, 100)
    subject.added(revision(2), ACCOUNT, 3)
    marks = subject.mark()
    subject.added(revision(2), ACCOUNT, 1)
    subject.recounted([(revision(2), ACCOUNT, 2), (revision(3), ACCOUNT, 1)], marks)
    assert {asked.number for asked in subject.waiting()} == {2, 3}
    subject.node_joined("n", Capabilities(16, 65536), Credit(16, 65536, 16), [], [])
    assert sorted(match.revision.number for match in drain(subject)) == [2, 2, 2, 3]


def test_functions_take_turns() -> None:
    """A function with a long queue does not shut out another's."""
    subject = matching()
    subject.node_joined("n", BIG, ROOMY, [], [])
    subject.added(revision(1), ACCOUNT, 100)
    subject.added(revision(2, cpu_count=1), ACCOUNT, 100)
    assert sorted(match.revision.number for match in drain(subject)) == [1, 1, 2, 2]


def test_what_became_free_goes_on_with_its_function_for_a_moment() -> None:
    """A node runs the tasks of the container that it has before it starts another, and the others wait no longer."""
    subject = matching()
    subject.node_joined("n", BIG, Credit(1, 4096, 8), [], [])
    for number in (1, 2, 3):
        subject.added(revision(number), ACCOUNT, 3 if number == 2 else 100)
    served = []
    for step in range(9):
        now = step * 0.4 * STAY_SECONDS
        match = subject.next(now)
        assert match is not None
        served.append(match.revision.number)
        subject.freed(match.revision.key, now)
        subject.node_changed("n", credit=Credit(1, 4096, 8, offers_seen=match.number))
    # Each has its turn, and three more before the moment is over; one that has run out is not waited for.
    assert served == [1, 1, 1, 1, 2, 2, 2, 3, 3]
    subject.freed(revision(2).key, 0)  # nothing of it waits any more


def test_two_that_became_free_at_once_both_go_on() -> None:
    """That the one stands before its turn, and is warm, does not make the other give way to a start."""
    subject = matching()
    subject.node_joined("n", BIG, Credit(2, 4096, 8), [], [])
    for number in (1, 2, 3):
        subject.added(revision(number), ACCOUNT, 10)
    first = drain(subject)
    for match in first:
        subject.node_warmed("n", match.revision.key)
        subject.freed(match.revision.key, 0)
    subject.node_changed("n", credit=Credit(2, 4096, 8, offers_seen=2))
    assert {match.revision.number for match in first} == {match.revision.number for match in drain(subject)} == {1, 2}


def test_functions_that_are_all_warm_take_turns() -> None:
    """What became free goes before a start only: where there is none to put off, nobody waits for its moment to end."""
    subject = matching()
    subject.node_joined("n", BIG, Credit(1, 4096, 8), [], [revision(number).key for number in (1, 2, 3)])
    for number in (1, 2, 3):
        subject.added(revision(number), ACCOUNT, 10)
    served = []
    for _ in range(6):
        match = subject.next(0)
        assert match is not None
        served.append(match.revision.number)
        subject.freed(match.revision.key, 0)
        subject.node_changed("n", credit=Credit(1, 4096, 8, offers_seen=match.number))
    assert served == [1, 2, 3, 1, 2, 3]


def test_what_goes_on_takes_no_other_account_its_turn() -> None:
    """It goes before the other functions of its own account alone."""
    subject = matching()
    subject.node_joined("n", BIG, Credit(1, 4096, 8), [], [])
    subject.added(revision(1), ACCOUNT, 10)
    subject.added(revision(2), ACCOUNT, 10)
    subject.added(revision(3), "other", 10)
    served = []
    for _ in range(6):
        match = subject.next(0)
        assert match is not None
        served.append(match.revision.number)
        subject.freed(match.revision.key, 0)
        subject.node_changed("n", credit=Credit(1, 4096, 8, offers_seen=match.number))
    assert served == [1, 3, 1, 3, 1, 3]


def test_an_account_with_a_long_queue_does_not_starve_another() -> None:
    """100,000 tasks of twenty functions of one account wait; the ten tasks of another take every second turn."""
    subject = matching()
    for number in range(20):
        subject.added(Revision(f"{number:024x}", 1, "image"), "many", 5000)
    subject.added(revision(), "few", 10)
    subject.node_joined("n", Capabilities(64, 65536), Credit(20, 65536, 20), [], [])
    assert [match.revision.function for match in drain(subject)].count(FUNCTION) == 10


def test_of_nodes_that_are_alike_the_nearer_is_chosen_then_the_less_loaded() -> None:
    """A round trip of many times as long counts before the load; one that is about as long does not."""
    subject = matching()
    subject.node_joined("far", Capabilities(4, 4096, 80.0), ROOMY, [], [])
    subject.node_joined("near", Capabilities(4, 4096, 3.0), Credit(3, 4096, 8), [], [])
    subject.node_joined("as near", Capabilities(4, 4096, 2.0), Credit(2, 4096, 8), [], [])
    subject.added(revision(), ACCOUNT, 5)
    assert [match.node for match in drain(subject)] == ["near", "near", "as near", "near", "as near"]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20))), st.integers(1, 8))
def test_sampled_set_is_a_set(steps: list[tuple[bool, int]], count: int) -> None:
    """Whatever goes in and out, membership is that of a set and a sample holds distinct members."""
    subject, model = SampledSet(), set()
    for add, number in steps:
        if add:
            subject.add(str(number))
            model.add(str(number))
        else:
            subject.discard(str(number))
            model.discard(str(number))
    assert len(subject) == len(model)
    sample = subject.sample(count, random.Random(1))
    assert len(set(sample)) == len(sample) == min(count, len(model))
    assert set(sample) <= model


class MatchingMachine(RuleBasedStateMachine):
    """Nodes and tasks come and go in any order; the model counts, the matching must agree with it."""

    def __init__(self) -> None:
        super().__init__()
        self.subject = matching()
        self.nodes: dict[str, tuple[Capabilities, Credit, dict[int, tuple[float, int]], bool]] = {}
        self.demand: dict[str, tuple[Revision, int]] = {}

    @rule(node=st.sampled_from("abcd"), cpus=st.integers(1, 4), privileged=st.booleans(), slots=st.integers(0, 3))
    def join(self, node: str, cpus: int, privileged: bool, slots: int) -> None:
        capabilities = Capabilities(cpus, 1024, privileged=privileged)
        credit = Credit(cpus, 1024, slots)
        self.nodes[node] = (capabilities, credit, {}, True)
        self.subject.node_joined(node, capabilities, credit, [], [])

    @rule(node=st.sampled_from("abcd"), slots=st.integers(0, 3), seen=st.integers(0, 3), available=st.booleans())
    def change(self, node: str, slots: int, seen: int, available: bool) -> None:
        if node not in self.nodes:
            return
        capabilities, known, under_way, _ = self.nodes[node]
        credit = Credit(capabilities.cpu_count, 1024, slots, offers_seen=seen)
        if seen >= known.offers_seen:
            known = credit
            under_way = {number: share for number, share in under_way.items() if number > seen}
        self.nodes[node] = (capabilities, known, under_way, available)
        self.subject.node_changed(node, credit=credit, available=available)

    @rule(node=st.sampled_from("abcd"))
    def leave(self, node: str) -> None:
        self.nodes.pop(node, None)
        self.subject.node_left(node)

    @rule(number=st.integers(1, 3), count=st.integers(1, 3), cpus=st.sampled_from([0, 2]), privileged=st.booleans())
    def add(self, number: int, count: int, cpus: int, privileged: bool) -> None:
        asked = revision(number + 3 * (cpus + privileged), cpu_count=cpus, privileged=privileged)
        _, before = self.demand.get(asked.key, (asked, 0))
        self.demand[asked.key] = (asked, before + count)
        self.subject.added(asked, ACCOUNT, count)

    @rule()
    def match(self) -> None:
        found = self.subject.next(0)
        fitting = [
            (node, asked.key)
            for node in self.nodes
            for asked, count in self.demand.values()
            if count and self.fits(node, asked)
        ]
        if found is None:
            assert fitting == []
            return
        assert (found.node, found.revision.key) in fitting
        asked, count = self.demand[found.revision.key]
        self.demand[asked.key] = (asked, count - 1)
        capabilities, _, under_way, _ = self.nodes[found.node]
        under_way[found.number] = asked.share_of(capabilities)

    def fits(self, node: str, asked: Revision) -> bool:
        capabilities, credit, under_way, available = self.nodes[node]
        cpu, memory = asked.share_of(capabilities)
        return (
            available
            and capabilities.cpu_count >= asked.cpu_count
            and (capabilities.privileged or not asked.privileged)
            and len(under_way) < credit.slots
            and credit.cpu - sum(share for share, _ in under_way.values()) >= cpu
            and credit.memory - sum(share for _, share in under_way.values()) >= memory
        )

    @invariant()
    def waiting_agrees(self) -> None:
        assert {r.key for r in self.subject.waiting()} == {key for key, (_, count) in self.demand.items() if count}


TestMatchingMachine = MatchingMachine.TestCase
TestMatchingMachine.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
