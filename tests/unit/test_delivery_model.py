"""A dispatcher and two nodes under every order of messages, losses, repeats and crashes that hypothesis finds."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent import task_state as ts
from agent.protocol import OFFER_SECONDS, Lease, Revision
from dispatcher.store.base import NewTask
from tests.unit.delivery import ACCOUNT, Dispatcher, MemoryStore, Node, Session, Spoilt

ROUNDS_TO_QUIET = 80
"""Rounds of two seconds without faults in which everything must end."""

REVISIONS = {retries: Revision(f"{retries + 1:024x}", 1, "image", retries=retries) for retries in (0, 2)}

which = st.integers(0, 1)
pick = st.integers(0, 50)


class Delivery(RuleBasedStateMachine):
    """The world, and what may happen in it."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now = 1000.0
        self.store = MemoryStore()
        self.runs: Counter[str] = Counter()
        self.nonces: dict[str, str] = {}
        self.retries: dict[str, int] = {}
        self.ends: dict[str, tuple[Any, ...]] = {}
        self.nodes = [Node("node-1", self.ran), Node("node-2", self.ran)]
        self.dispatcher = Dispatcher(self.store, lambda: self.now)

    def do(self, work: Coroutine[Any, Any, Any]) -> None:
        self.loop.run_until_complete(work)

    def ran(self, lease: Lease) -> str:
        """Count a run of a function, and give its nonce."""
        self.runs[lease.task] += 1
        nonce = f"{lease.task} {self.runs[lease.task]}"
        self.nonces[nonce] = lease.task
        return nonce

    @initialize(retries=st.sampled_from([0, 2]))
    def begin(self, retries: int) -> None:
        self.create(retries)
        for node in range(len(self.nodes)):
            self.connect(node)

    # what callers do

    @rule(retries=st.sampled_from([0, 0, 2]))
    @precondition(lambda self: len(self.retries) < 3)
    def create(self, retries: int) -> None:
        task_id = f"{len(self.retries) + 1:024x}"
        new = NewTask(task_id, ACCOUNT, REVISIONS[retries], int(self.now * 1000), "", [], b"", 0)
        self.do(self.dispatcher.queue.submit(new))
        self.retries[task_id] = retries

    @rule(number=pick)
    @precondition(lambda self: self.retries)
    def cancel(self, number: int) -> None:
        task_id = sorted(self.retries)[number % len(self.retries)]
        if number % 4 == 0:
            self.do(self.dispatcher.queue.cancel(ACCOUNT, task_id))

    # the network

    @rule(node=which)
    def connect(self, node: int) -> None:
        """Begin a session. The node may think that it has one: the old connection broke, and nobody told it."""
        here = self.nodes[node]
        here.session = session = Session()
        self.do(self.dispatcher.welcome(here.id, session, here.hello()))

    @rule(node=which, told=st.booleans())
    def cut(self, node: int, told: bool) -> None:
        """Lose the connection with all that is on its way; the dispatcher may not notice before the next one."""
        here = self.nodes[node]
        if here.session is not None and told:
            self.dispatcher.left(here.id, here.session)
        here.session = None

    @rule(node=which, first=pick, count=st.integers(1, 4))
    def deliver_up(self, node: int, first: int, count: int) -> None:
        """Deliver some of what the node sent, in whatever order, as one frame."""
        here = self.nodes[node]
        if (session := here.session) is not None and session.up and session.is_open:
            at = first % len(session.up)
            messages = session.up[at : at + count]
            del session.up[at : at + count]
            self.do(self.dispatcher.take(here.id, session, messages))

    @rule(node=which, number=pick)
    def repeat_up(self, node: int, number: int) -> None:
        """Deliver something that the node once sent, again or for the first time."""
        here = self.nodes[node]
        if here.sent and here.session is not None:
            self.do(self.dispatcher.take(here.id, here.session, [here.sent[-1 - number % len(here.sent)]]))

    @rule(node=which, number=pick)
    def deliver_down(self, node: int, number: int) -> None:
        """Deliver one of the messages to the node: its hello first, then in whatever order."""
        here = self.nodes[node]
        if here.session is not None and (waiting := here.session.down):
            here.receive(waiting.pop(0 if here.session.fresh else number % len(waiting)))
            here.session.fresh = False

    @rule(node=which, times=st.integers(1, 3))
    def exchange(self, node: int, times: int) -> None:
        """A while without trouble: what waits for the wire, the disk and a node goes on."""
        here = self.nodes[node]
        for _ in range(times):
            self.pump()
            while here.session is not None and here.session.down:
                self.deliver_down(node, 0)
            while here.writes:
                here.write()
            self.deliver_up(node, 0, 1000)

    @rule(node=which, how=st.sampled_from(["answer", "answer", "no answer", "given back", None]))
    def run_all(self, node: int, how: Spoilt | None) -> None:
        """What a node works on gets to run, and may end."""
        for lease in self.nodes[node].working:
            self.nodes[node].request(lease)
            if how is not None:
                self.nodes[node].work_ends(lease, how)

    # the nodes

    @rule(node=which, fails=st.integers(0, 5))
    def write(self, node: int, fails: int) -> None:
        if self.nodes[node].writes:
            self.nodes[node].write(fails=fails == 0)

    @rule(node=which, number=pick)
    def request(self, node: int, number: int) -> None:
        if working := self.nodes[node].working:
            self.nodes[node].request(working[number % len(working)])

    @rule(node=which, number=pick, how=st.sampled_from(["answer", "answer", "no answer", "given back"]))
    def work_ends(self, node: int, number: int, how: Spoilt) -> None:
        if working := self.nodes[node].working:
            self.nodes[node].work_ends(working[number % len(working)], how)

    @rule(node=which)
    def beat(self, node: int) -> None:
        self.nodes[node].beat()

    @rule(node=which, event=st.sampled_from([ts.Overdue(), ts.Draining(), ts.Aborted()]))
    def disturb(self, node: int, event: ts.Event) -> None:
        for lease in list(self.nodes[node].attempts):
            self.nodes[node].handle(lease, event)

    @rule(node=which, readopts=st.booleans(), told=st.booleans())
    def crash_node(self, node: int, readopts: bool, told: bool) -> None:
        self.cut(node, told)
        self.nodes[node].crash(readopts=readopts)

    # the dispatcher

    @rule()
    def pump(self) -> None:
        self.do(self.dispatcher.pump())

    @rule(seconds=st.sampled_from([0.1, OFFER_SECONDS + 0.1, 16.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.do(self.dispatcher.sweep())

    @rule()
    def recount(self) -> None:
        self.do(self.dispatcher.recount())

    @rule()
    def crash_dispatcher(self) -> None:
        self.dispatcher = Dispatcher(self.store, lambda: self.now)
        for node in self.nodes:
            node.session = None
        self.do(self.dispatcher.recount())

    # what must hold

    @invariant()
    def ends_once(self) -> None:
        """An end that was recorded stays as it is, and its answer was really given by a run of that task."""
        rows = self.store.db.execute(
            "SELECT t.id, t.status, t.error, o.body FROM task t LEFT JOIN task_result o ON o.task = t.id"
            " WHERE t.finished_ms IS NOT NULL"
        )
        for task_id, *end in rows:
            assert self.ends.setdefault(task_id, tuple(end)) == tuple(end)
            if end[0] == 200:
                assert self.nonces[end[2].decode()] == task_id

    @invariant()
    def runs_once(self) -> None:
        """A task without retries never runs a second time."""
        assert all(self.runs[task_id] <= 1 for task_id, retries in self.retries.items() if retries == 0)

    @invariant()
    def none_is_gone(self) -> None:
        """A task that was accepted is there, whatever became of it."""
        assert self.store.db.execute("SELECT count(*) FROM task").fetchone() == (len(self.retries),)

    def teardown(self) -> None:
        """When the faults stop, everything ends, and nobody holds anything any more."""
        try:
            for _ in range(ROUNDS_TO_QUIET):
                self._quiet_round()
            self.ends_once()
            self.runs_once()
            assert set(self.ends) == set(self.retries), "every task has an end"
            for node in self.nodes:
                assert not node.attempts
                assert not node.journal
            assert len(self.dispatcher.leases) == 0
        finally:
            self.store.db.close()
            self.loop.close()

    def _quiet_round(self) -> None:
        for number, node in enumerate(self.nodes):
            if node.session is None or not node.session.is_open:
                self.connect(number)
            self.deliver_down(number, 0)
            while node.session is not None and node.session.down:
                self.deliver_down(number, 0)
            while node.writes:
                node.write()
            for lease in node.working:
                node.request(lease)
                node.work_ends(lease, "answer")
            while node.writes:
                node.write()
            node.beat()
            self.deliver_up(number, 0, 1000)
        self.time_passes(2.0)
        self.recount()
        self.pump()
        for number in range(len(self.nodes)):
            if int(self.now) % 30 < 2:
                self.disturb(number, ts.Overdue())


Delivery.TestCase.settings = settings(
    max_examples=150, stateful_step_count=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
test_delivery = Delivery.TestCase
