"""A dispatcher and two nodes under every order of messages, losses, repeats and crashes that hypothesis finds."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agent import task_state as ts
from agent.protocol import LEASE_SECONDS, OFFER_SECONDS, Lease, Revision
from dispatcher.drafts import Draft
from dispatcher.store.records import NewTask
from tests.unit.delivery import ACCOUNT, Dispatcher, MemoryStore, Node, Session, Spoilt

ROUNDS_TO_QUIET = 80
"""Rounds of two seconds without faults in which everything must end."""

REVISIONS = {retries: Revision(f"{retries + 1:024x}", 1, "image", retries=retries) for retries in (0, 2)}

MANY = 3
PASSING = (0.1, OFFER_SECONDS + 0.1, 16.0, LEASE_SECONDS + 0.1)
ENDINGS: tuple[Spoilt, ...] = ("answer", "answer", "no answer", "given back")
LATE: tuple[ts.Event, ...] = (ts.Overdue(), ts.Lasting())
DISTURBANCES: tuple[ts.Event, ...] = (*LATE * 4, ts.Draining(), ts.Aborted())

WHAT_HAPPENS = [
    *["exchange", "request"] * 5,
    *["connect", "hear", "pump", "write", "deliver_up", "deliver_down", "work_ends", "time_passes"] * 3,
    *["create", "draft", "cut", "crash_node"] * 2,
    *["beat", "cancel", "repeat_up", "disturb", "recount", "write_draft", "crash_dispatcher"],
]
"""By how often: most of a life is going to a node and back."""

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
        self.created = 0
        self.retries: dict[str, int] = {}
        self.drafts: dict[str, Draft] = {}
        """What runs before it is in the store, of this run of the dispatcher."""
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

    @initialize(number=pick)
    def begin(self, number: int) -> None:
        self.create(self.nodes[0], number)
        for node in self.nodes:
            self.connect(node, 0)

    @rule(what=st.sampled_from(WHAT_HAPPENS), node=which, number=pick)
    def something_happens(self, what: str, node: int, number: int) -> None:
        """One rule for all, so that hypothesis never leaves out what everything else builds on."""
        getattr(self, what)(self.nodes[node], number)

    # what callers do

    def create(self, _: Node, number: int) -> None:
        if self.created < MANY:
            self.do(self.dispatcher.queue.submit(self.new_task(number % 3 // 2 * 2)))

    def draft(self, _: Node, __: int) -> None:
        """Create a task for a caller that waits, and is told nothing before it is in the store."""
        if self.created < MANY:
            self.do(self._draft(self.new_task(2)))

    async def _draft(self, new: NewTask) -> None:
        self.drafts[new.id] = self.dispatcher.queue.draft(new)

    def new_task(self, retries: int) -> NewTask:
        self.created += 1
        task_id = f"{self.created:024x}"
        self.retries[task_id] = retries
        return NewTask(task_id, ACCOUNT, REVISIONS[retries], int(self.now * 1000), "", [], b"", 0)

    def cancel(self, _: Node, number: int) -> None:
        if number % 5 or not self.retries:
            return  # seldom, for nothing comes after it
        task_id = sorted(self.retries)[number % len(self.retries)]
        self.do(self.dispatcher.queue.cancel(ACCOUNT, task_id))

    # the network

    def connect(self, node: Node, _: int) -> None:
        """Begin a session. The node may think that it has one: the old connection broke, and nobody told it."""
        node.session = session = Session()
        self.do(self.dispatcher.welcome(node.id, session, node.hello()))

    def cut(self, node: Node, number: int) -> None:
        """Lose the connection with all that is on its way; the dispatcher may not notice before the next one."""
        if node.session is not None and number % 2:
            self.dispatcher.left(node.id, node.session)
        node.session = None

    def deliver_up(self, node: Node, number: int, count: int | None = None) -> None:
        """Deliver some of what the node sent, in whatever order, as one frame."""
        if (session := node.session) is not None and session.up and session.is_open:
            at, count = number % len(session.up), count or 1 + number % 3
            messages = session.up[at : at + count]
            del session.up[at : at + count]
            self.do(self.dispatcher.take(node.id, session, messages))

    def repeat_up(self, node: Node, number: int) -> None:
        """Deliver something that the node once sent, again or for the first time."""
        if node.sent and node.session is not None:
            message = node.sent[-1 - number % len(node.sent)]
            self.do(self.dispatcher.take(node.id, node.session, [message]))

    def deliver_down(self, node: Node, number: int) -> None:
        """Deliver one of the messages to the node: its hello first, then in whatever order."""
        if (session := node.session) is not None and session.down:
            message = session.down.pop(0 if session.fresh else number % len(session.down))
            session.fresh = False
            node.receive(message)

    def exchange(self, node: Node, number: int) -> None:
        """A while without trouble: what waits for the queue, the wire and the disk goes on."""
        if node.session is None or not node.session.is_open:
            self.connect(node, 0)
        for _ in range(1 + number % 3):
            self.hear(node, 0)
            self.deliver_up(node, 0, count=1000)

    def hear(self, node: Node, _: int) -> None:
        """All that the dispatcher has for a node reaches it, and nothing that it says gets out."""
        self.do(self.dispatcher.pump())
        while node.session is not None and node.session.down:
            self.deliver_down(node, 0)
        while node.writes:
            node.write()

    # the nodes

    def write(self, node: Node, number: int) -> None:
        if node.writes:
            node.write(fails=number % 5 == 0)

    def request(self, node: Node, number: int) -> None:
        if working := node.working:
            node.request(working[number % len(working)])

    def work_ends(self, node: Node, number: int) -> None:
        if working := node.working:
            node.work_ends(working[number % len(working)], ENDINGS[number % len(ENDINGS)])

    def beat(self, node: Node, _: int) -> None:
        node.beat()

    def disturb(self, node: Node, number: int) -> None:
        for lease in list(node.attempts):
            node.handle(lease, DISTURBANCES[number % len(DISTURBANCES)])

    def crash_node(self, node: Node, number: int) -> None:
        self.cut(node, number)
        node.crash(readopts=number % 3 == 0)

    # the dispatcher

    def pump(self, _: Node, __: int) -> None:
        self.do(self.dispatcher.pump())

    def time_passes(self, _: Node, number: int) -> None:
        self.now += PASSING[number % len(PASSING)]
        self.do(self.dispatcher.sweep())

    def recount(self, _: Node, __: int) -> None:
        self.do(self.dispatcher.recount())

    def write_draft(self, _: Node, __: int) -> None:
        """Time is up for what is not in the store yet."""
        for task_id in self.drafts:
            self.do(self.dispatcher.queue.drafts.written(task_id))

    def crash_dispatcher(self, _: Node, __: int) -> None:
        for task_id, draft in self.drafts.items():
            if not draft.settled.done() and task_id not in self.stored():
                del self.retries[task_id]  # nobody was told of it
        self.drafts.clear()
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
        """A task that its caller was told of is there, whatever became of it."""
        unwritten = {task_id for task_id, draft in self.drafts.items() if not draft.settled.done()}
        assert set(self.retries) - unwritten <= self.stored() <= set(self.retries)

    def stored(self) -> set[str]:
        return {task_id for (task_id,) in self.store.db.execute("SELECT id FROM task")}

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
        for node in self.nodes:
            self.exchange(node, 0)
            for lease in node.working:
                node.request(lease)
                node.work_ends(lease, "answer")
            node.beat()
            self.exchange(node, 0)
            if int(self.now) % LEASE_SECONDS < 2:
                self.disturb(node, 0)
        self.now += 2.0
        self.do(self.dispatcher.sweep())
        self.do(self.dispatcher.recount())


Delivery.TestCase.settings = settings(
    max_examples=300, stateful_step_count=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
test_delivery = pytest.mark.timeout(300)(Delivery.TestCase)
