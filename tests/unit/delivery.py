"""A dispatcher and nodes without I/O: the real rules and the real SQL, with a model of everything around them.

The dispatcher is made of its own parts over a database in memory. A node is `agent.task_state` with a journal
that is a dict, work that is a nonce, and a disk whose writes wait until somebody lets them happen.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from agent import task_state as ts
from agent.protocol import (
    Abandon,
    Accept,
    Begin,
    Capabilities,
    Credit,
    Decline,
    DispatcherHello,
    DispatcherMessage,
    GiveBack,
    Held,
    Lease,
    Load,
    Log,
    NodeHeartbeat,
    NodeHello,
    NodeMessage,
    Offer,
    Outcome,
    OutcomeAck,
)
from agent.task_state import Life, State
from dispatcher.attempts import Attempts
from dispatcher.events import Events
from dispatcher.feed import Feed
from dispatcher.leases import LeaseTable
from dispatcher.matching import Matching
from dispatcher.metrics import Metrics
from dispatcher.presence import Presence
from dispatcher.queue import Limits, Queue
from dispatcher.sessions import Sessions
from dispatcher.store.base import Store
from dispatcher.store.records import Node as NodeRow
from dispatcher.store.sqlite import tasks
from dispatcher.store.sqlite.file import _migrate
from dispatcher.wire import Broken, Wire

ACCOUNT = "account"
SLOTS = 3
CAPABILITIES = Capabilities(cpu_count=SLOTS, mem_size=SLOTS * 256)
Spoilt = Literal["answer", "no answer", "given back"]


class MemoryStore:
    """The store's own SQL. Each call gives way once before it is done, and calls keep their order."""

    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        _migrate(self.db)

    async def node_seen(self, *_: object) -> bool:
        return True

    async def create_task(self, *values: object) -> str:
        return str(tasks.create(self.db, *values))  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        work = getattr(tasks, name)

        async def call(*values: Any, **named: Any) -> Any:
            await asyncio.sleep(0)
            return work(self.db, *values, **named)

        return call


@dataclass(eq=False)
class Session:
    """One connection. What was sent and not delivered is lost with it."""

    up: list[NodeMessage] = field(default_factory=list)
    down: list[DispatcherMessage] = field(default_factory=list)
    is_open: bool = True
    fresh: bool = True
    """Nothing was delivered to the node yet: the hello comes first."""

    def send(self, *messages: DispatcherMessage) -> None:
        self.down += messages if self.is_open else ()

    def close(self, reason: str, retry_after: float = 0) -> None:
        self.is_open = False


class Dispatcher:
    """One run of the dispatcher's process; what outlives it is the store."""

    def __init__(self, store: MemoryStore, now: Callable[[], float]) -> None:
        self._now = now
        self.matching = Matching(random.Random(0))
        self.leases = LeaseTable()
        events, limits, kept = Events(), Limits(), cast("Store", store)
        clocks: dict[str, Any] = {"wall": now, "monotonic": now, "metrics": Metrics()}
        self.queue = Queue(kept, self.matching, self.leases, events, limits, **clocks)
        self.queue.drafts._set_timer = lambda seconds: None  # type: ignore[method-assign] # `write_draft` says when
        self.attempts = Attempts(kept, self.queue, self.matching, self.leases, events, **clocks)
        self.sessions = Sessions(
            kept,
            self.queue,
            self.attempts,
            self.matching,
            self.leases,
            feed=Feed(),
            limits=limits,
            version="0",
            **clocks,
        )

    async def recount(self) -> None:
        await self.attempts.take_up()
        await self.queue.recount()

    async def pump(self) -> None:
        self.queue._match()
        matches, self.queue._to_claim = self.queue._to_claim, []
        for match in matches:
            assert await self.queue._claim([match])

    async def sweep(self) -> None:
        for holding in self.leases.due(self._now()):
            await self.attempts.lost(holding, "its lease expired")

    async def welcome(self, node: str, session: Session, hello: NodeHello) -> None:
        try:
            await self.sessions._welcome(cast("Wire", session), _row(node), hello)
        except Broken:
            session.close("broken")

    async def take(self, node: str, session: Session, messages: list[NodeMessage]) -> None:
        """Take messages in as a session does: begun in their order, and under way at the same time."""
        presence = self.sessions.presence(node) or Presence("", "0", CAPABILITIES, Credit(), 0, 0, [], [])
        wire = cast("Wire", session)
        begun = [self.sessions._take(wire, _row(node), presence, message) for message in messages]
        await asyncio.gather(*(work for work in begun if work is not None))

    def left(self, node: str, session: Session) -> None:
        self.sessions._unseat(node, session)


def _row(node: str) -> NodeRow:
    return NodeRow(node, ACCOUNT, "", disabled=False, joined_ms=0, seen_ms=None, version="", capabilities_json=b"")


@dataclass
class Attempt:
    """An attempt in the memory of an agent."""

    life: Life
    outcome: Outcome | None = None
    give_back: tuple[str, bool] = ("", False)
    told_to_stop: bool = False


@dataclass
class Node:
    """An agent's process, its journal and its engine.

    Attributes:
        journal: On disk: accepted leases, and their outcomes where there are any.
        writes: What waits for the disk, in order.
        containers: What ran or runs on the engine: the nonce of each run. The agent's end does not end it.
    """

    id: str
    ran: Callable[[Lease], str]
    attempts: dict[Lease, Attempt] = field(default_factory=dict)
    journal: dict[Lease, Outcome | None] = field(default_factory=dict)
    writes: list[tuple[Literal["accept", "finish", "forget"], Lease]] = field(default_factory=list)
    containers: dict[Lease, str] = field(default_factory=dict)
    session: Session | None = None
    sent: list[NodeMessage] = field(default_factory=list)
    offers_seen: int = 0

    @property
    def working(self) -> list[Lease]:
        busy = ts.WORKING | ts.STOPPING
        return [lease for lease, attempt in self.attempts.items() if attempt.life.state in busy]

    @property
    def held(self) -> list[Lease]:
        return [lease for lease, attempt in self.attempts.items() if attempt.life.state is not State.ABANDONING]

    def credit(self) -> Credit:
        taken = (State.OFFERED, State.HELD)
        free = SLOTS - len(self.working) - sum(attempt.life.state in taken for attempt in self.attempts.values())
        return Credit(free, free * 256, free, self.offers_seen)

    def hello(self) -> NodeHello:
        self.offers_seen = 0
        finished = {State.SPOOLING, State.UPLOADING, State.SPOOLED}
        held = [Held(lease, self.attempts[lease].life.state in finished) for lease in self.held]
        return NodeHello("0", CAPABILITIES, self.credit(), held=held)

    def beat(self) -> None:
        self.send(NodeHeartbeat(0, self.held, CAPABILITIES, self.credit(), Load()))

    def send(self, message: NodeMessage) -> bool:
        if self.session is None:
            return False
        self.session.up.append(message)
        self.sent.append(message)
        return True

    def receive(self, message: DispatcherMessage) -> None:
        match message:
            case DispatcherHello(abandon=abandoned):
                for lease in abandoned:
                    self.handle(lease, ts.Abandoned("stale"))
                for lease in list(self.attempts):
                    self.handle(lease, ts.SessionOpened())
            case Offer(lease=lease):
                self._take(message)
            case Begin(lease):
                self.handle(lease, ts.Begun())
            case Abandon(lease, reason):
                self.handle(lease, ts.Abandoned(reason))
            case OutcomeAck(lease):
                self.handle(lease, ts.Acknowledged())

    def _take(self, offer: Offer) -> None:
        self.offers_seen = max(self.offers_seen, offer.number)
        if offer.lease in self.attempts:
            return
        if self.credit().slots <= 0 or any(lease.task == offer.lease.task for lease in self.held):
            self.send(Decline(offer.lease, "no", self.credit()))
            return
        if offer.short:
            self.attempts[offer.lease] = Attempt(Life(State.ACCEPTED, unwritten=True))
            return
        self.attempts[offer.lease] = Attempt(Life(hold=offer.hold))
        self.writes.append(("accept", offer.lease))

    def write(self, *, fails: bool = False) -> None:
        """Let the next write reach the disk, or fail there."""
        kind, lease = self.writes.pop(0)
        if kind == "forget":
            self.journal.pop(lease, None)
            self.containers.pop(lease, None)
        elif kind == "accept":
            if not fails:
                self.journal[lease] = None
            self.handle(lease, ts.AcceptNotWritten("disk full") if fails else ts.AcceptWritten())
        elif (attempt := self.attempts.get(lease)) is not None:
            if not fails:
                self.journal[lease] = attempt.outcome
            self.handle(lease, ts.Spooled())

    def request(self, lease: Lease) -> None:
        """The function gets to run."""
        if lease not in self.containers and not self.attempts[lease].told_to_stop:
            self.containers[lease] = self.ran(lease)

    def work_ends(self, lease: Lease, how: Spoilt) -> None:
        """The work has an ending: an answer where the function ran, otherwise none or a give-back."""
        attempt, nonce = self.attempts[lease], self.containers.get(lease)
        if attempt.life.state is State.CANCELLING and how != "given back":
            attempt.outcome = Outcome(lease, "cancelled", log=Log((nonce or "").encode()))
            self.handle(lease, ts.WorkRan(upload=False))
            return
        if how == "given back" or attempt.told_to_stop:
            self.handle(lease, ts.WorkGaveBack("engine_lost", started=nonce is not None))
            return
        body = (nonce or "").encode()
        answered = how == "answer" and nonce is not None
        attempt.outcome = Outcome(lease, "answered", 200, [], body) if answered else Outcome(lease, "crash")
        self.handle(lease, ts.WorkRan(upload=False))

    def crash(self, *, readopts: bool) -> None:
        """The process dies and starts again with what is on its disk."""
        self.attempts.clear()
        self.writes.clear()
        self.session = None
        for lease, outcome in self.journal.items():
            if outcome is not None:
                self.attempts[lease] = Attempt(Life(State.SPOOLED), outcome)
            elif readopts and lease in self.containers:
                self.attempts[lease] = Attempt(Life(State.INTERRUPTED))
                self.handle(lease, ts.Readopted())
            else:
                self.attempts[lease] = Attempt(Life(State.GIVING_BACK), give_back=("restarted", True))

    def handle(self, lease: Lease, event: ts.Event) -> None:
        attempt = self.attempts.get(lease)
        if attempt is None:
            return
        attempt.life, actions = ts.step(attempt.life, event)
        for action in actions:
            self._do(lease, attempt, action)
        if attempt.life.state in ts.ENDED:
            self.attempts.pop(lease, None)

    def _do(self, lease: Lease, attempt: Attempt, action: ts.Action) -> None:  # noqa: C901 - one line for each action
        match action:
            case ts.WriteAccept():
                self.writes.append(("accept", lease))
            case ts.SendAccept():
                self.send(Accept(lease, self.credit()))
            case ts.SendDecline(reason):
                self.send(Decline(lease, reason, self.credit()))
            case ts.StopWork():
                attempt.told_to_stop = True
            case ts.SpoolOutcome():
                self.writes.append(("finish", lease))
            case ts.SendOutcome():
                assert attempt.outcome is not None
                self.send(attempt.outcome)
            case ts.KeepGiveBack(reason, started):
                attempt.give_back = (reason, started)
            case ts.SendGiveBack():
                if self.send(GiveBack(lease, *attempt.give_back, credit=self.credit())):
                    self.handle(lease, ts.GiveBackSent())
            case ts.Forget() if not attempt.life.unwritten:
                self.writes.append(("forget", lease))
            case _:
                pass
