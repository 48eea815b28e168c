"""This dispatcher among others on the same store.

The store decides: who gets a task, whose lease is good, where a node has its session. What is told here makes
the others look at once, and what is not told they find when they look anyway: waiting tasks by the recount, ends
and lost leases by `check`, dispatchers that died by their beats.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

import msgspec
import structlog

from agent.protocol import Abandon, Lease, Revision
from dispatcher.events import Event, Events
from dispatcher.feed import Feed
from dispatcher.leases import LeaseTable
from dispatcher.matching import Matching
from dispatcher.needs import Lack
from dispatcher.presence import Presence
from dispatcher.queue import Queue
from dispatcher.replicas.interest import Interest
from dispatcher.replicas.members import BEAT_SECONDS, Members
from dispatcher.replicas.messages import (
    Changed,
    Ended,
    Follows,
    Happened,
    Joined,
    Lacks,
    Letter,
    Message,
    Moved,
    Removed,
    Runs,
    Unwatch,
    Waits,
    Watch,
)
from dispatcher.replicas.post import Post
from dispatcher.running import Running
from dispatcher.store.errors import StoreUnavailable
from dispatcher.store.peers import Peers
from dispatcher.store.records import Leased, State

CHECK_SECONDS = 5.0
"""Ends and leases that no message told of are looked for this often."""

SHOW_SECONDS = 60.0
"""What nodes say of themselves is shown to the others this often, and when it matters."""

HEARD_SECONDS = 15.0
"""What another said of its nodes holds for so long."""

KNOWN_REVISIONS = 4096
PRESENCES = 10_000
MOST_CHANGED = 200

log = structlog.get_logger()


class Nodes(Protocol):
    """The sessions, as far as other dispatchers have a say in them."""

    def presence(self, node_id: str) -> Presence | None:
        """Give what is known of a node that is connected here."""

    def connected(self) -> list[str]:
        """List the nodes that are connected here."""

    def close(self, node_id: str, reason: str, joined_ms: int | None = None) -> None:
        """End every session of a node but those of the join at this time. What it holds stays leased."""

    def moved_away(self, node_id: str, reason: str) -> None:
        """End every session of a node whose tasks are another dispatcher's to watch over."""

    async def node_removed(self, node_id: str) -> None:
        """Close the session of a node at once and put its tasks back."""


class Replicas:
    """What this dispatcher tells the others, and what it does when they tell it something."""

    def __init__(
        self,
        peers: Peers,
        queue: Queue,
        matching: Matching,
        leases: LeaseTable,
        events: Events,
        *,
        running: Running,
        nodes: Nodes,
        feed: Feed,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        rng: random.Random,
    ) -> None:
        self._wall = wall
        self._peers = peers
        self._queue = queue
        self._matching = matching
        self._leases = leases
        self._events = events
        self._feed = feed
        self._monotonic = monotonic
        self._rng = rng
        self._nodes = nodes
        self._running = running
        self._members = Members(peers, monotonic)
        self._post = Post(peers, lambda: self._members.others, self._gather, self._received)
        self._interest = Interest(events, self._post, lambda task: leases.of_task(task) is not None)
        running.changed = self._post.wake
        self._waits: Counter[str] = Counter()
        self._revisions: dict[str, tuple[Revision, str]] = {}
        """Those that others told of, and the accounts whose they are."""
        self._changed_tasks: dict[str, None] = {}
        self._changed_nodes: dict[tuple[str, str], None] = {}
        self._changed_accounts: set[str] = set()
        self._heard: dict[str, dict[str, tuple[Lack | None, float]]] = {}
        """By revision and dispatcher: why no node there could run it, and when that was said."""
        self._to_show: set[str] = set()
        self._suspect: set[bytes] = set()
        """Tokens of leases that the store did not know at the last check."""
        self._work: set[asyncio.Task[None]] = set()

    @property
    def label(self) -> str:
        """What the ids of events here begin with, so that another dispatcher does not take them for its own."""
        return f"{self._peers.name[:6]}-"

    @property
    def others(self) -> list[str]:
        """The other dispatchers that live."""
        return self._members.others

    async def stop(self) -> None:
        """Tell what is still to be told."""
        await self._post.flush()

    async def start(self) -> None:
        """See who else is there, and take over what others left."""
        await self._see_others()
        await self._adopt()

    async def run(self) -> None:
        """Tell and be told, for as long as the dispatcher runs."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._post.send(), name="tell others")
            group.create_task(self._post.receive(), name="hear others")
            for name, seconds, work in (
                ("beat", BEAT_SECONDS, self._see_others),
                ("check", CHECK_SECONDS, self.check),
                ("show", SHOW_SECONDS, self._show_all),
                ("adopt", SHOW_SECONDS, self._adopt),
            ):
                group.create_task(self._every(name, seconds, work), name=f"replicas {name}")

    async def _every(self, name: str, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds * self._rng.uniform(0.5, 1.0))
            try:
                await work()
            except StoreUnavailable as error:
                log.warning("the store does not answer", work=name, error=str(error))

    # what happens here

    def waits(self, revision: Revision, change: int) -> None:
        """More tasks of a revision wait, or fewer, by what was done here."""
        self._waits[revision.key] += change
        self._post.wake()

    def cancelled(self, task: str, state: State, status: int, error: str | None) -> None:
        """Its owner has ended a task."""
        self._post.tell(Ended(task, state, status, error))

    def happened(self, task: str, event: Event) -> None:
        """Something happened to a task that a node here holds, or that was created here."""
        self._interest.relay(task, event)

    def interest(self, task: str, by: int) -> None:
        """So many more watch a task here, or fewer."""
        self._interest.changed(task, by)

    def task_changed(self, task: str) -> None:
        """Something of a task is different, for those who follow its account."""
        if self._interest.followers and len(self._changed_tasks) <= MOST_CHANGED:
            self._changed_tasks[task] = None
            self._post.wake()

    def node_changed(self, account: str, node: str) -> None:
        """Something of a node is different, for those who follow its account."""
        if self._interest.followers and len(self._changed_nodes) <= MOST_CHANGED:
            self._changed_nodes[account, node] = None
            self._post.wake()

    def nodes_changed(self, account: str) -> None:
        """An account has other nodes than before."""
        if self._interest.followers:
            self._changed_accounts.add(account)
            self._post.wake()

    def follows(self) -> None:
        """Somebody begins to follow an account here, or ends."""
        self._post.wake()

    def lacks(self, lacks: dict[str, Lack | None]) -> None:
        """Tell why no node here could run revisions that wait, by their keys; None where one could."""
        now = self._monotonic()
        self._heard = {
            key: fresh
            for key, heard in self._heard.items()
            if (fresh := {name: said for name, said in heard.items() if now - said[1] < HEARD_SECONDS})
        }
        if lacks and self._members.others:
            self._post.tell(Lacks(lacks))

    def lacks_elsewhere(self, revision_key: str) -> list[Lack | None]:
        """Give what the others said lately of their nodes and a revision."""
        return [lack for lack, _ in self._heard.get(revision_key, {}).values()]

    def removed(self, node: str) -> None:
        """A node was removed by its owner."""
        self._post.tell(Removed(node))

    def joined(self, node: str, joined_ms: int) -> None:
        """A node has a new credential."""
        self._post.tell(Joined(node, joined_ms))

    # where nodes are

    async def sit(self, node: str, presence: Presence) -> None:
        """Note that a node has its session here, and take up what it holds by the store."""
        for holding in self._leases.of_node(node):
            # What is not in the store yet cannot be found there.
            await self._queue.drafts.written(holding.lease.task)
        seated = await self._peers.sit(node, msgspec.json.encode(presence))
        self._take_up(seated.held)
        held = {leased.lease.token for leased in seated.held}
        for holding in self._leases.of_node(node):
            if holding.lease.token not in held:
                self._leases.drop(holding.lease)
        if seated.before is not None and seated.before != self._peers.name:
            self._post.tell(Moved(node), seated.before)

    def rise(self, node: str) -> None:
        """Note that a node has no session here any more."""
        self._do(partial(self._rise, node))

    def show_soon(self, node: str) -> None:
        """Let the others see soon what a node says of itself."""
        self._to_show.add(node)
        self._post.wake()

    async def presences(self, nodes: list[str]) -> dict[str, Presence]:
        """Give what is known of nodes that are connected to any dispatcher; those here are known best."""
        here = {node: presence for node in nodes if (presence := self._nodes.presence(node)) is not None}
        elsewhere = [node for node in nodes if node not in here]
        shown = await self._peers.shown(elsewhere) if elsewhere and self._members.others else []
        return here | {one.node: _presence(one.presence) for one in shown if one.replica != self._peers.name}

    async def presences_elsewhere(self, account: str) -> list[Presence]:
        """Give what is known of the nodes of an account that are connected to other dispatchers."""
        if not self._members.others:
            return []
        shown = await self._peers.shown_of(account, PRESENCES)
        return [_presence(one.presence) for one in shown if one.replica != self._peers.name]

    # beats

    async def _see_others(self) -> None:
        beat = await self._members.beat()
        for name in beat.came:
            # Even where there is nothing to say, it learns that this one is there.
            self._interest.introduce(name)
            self._running.tell_all()
        for name in beat.gone:
            self._interest.gone(name)
            self._running.gone(name)
            for heard in self._heard.values():
                heard.pop(name, None)
        if beat.buried:
            log.error("the other dispatchers took this one for dead, its nodes come anew")
            for node in self._nodes.connected():
                self._nodes.moved_away(node, "the dispatcher begins anew")
            for holding in self._leases.all():
                self._leases.drop(holding.lease)
        if beat.gone:
            log.info("dispatchers have gone", replicas=beat.gone)
            await self._adopt()

    async def _adopt(self) -> None:
        """Watch over what nodes hold whose dispatcher is no more, until they come back, here or elsewhere."""
        adopted = await self._peers.adopt()
        self._take_up(adopted)
        if adopted:
            log.warning("took over what nodes of another dispatcher hold", tasks=len(adopted))

    def _take_up(self, found: list[Leased]) -> None:
        for leased in found:
            self._leases.take_up(leased, self._monotonic())

    # what messages may have failed to tell

    async def check(self) -> None:
        """Look for ends that somebody here waits for, and for leases here that are good no longer."""
        if watched := self._interest.watched_afar():
            for end in await self._peers.ended(watched):
                self._end(end.task, end.state, end.status, end.error)
        held = [holding.lease for holding in self._leases.all()]
        taken = await self._peers.taken(held) if held else []
        # What is just being written is not known to both sides at the same moment: it is looked at twice.
        for lease in taken:
            if lease.token in self._suspect:
                self._call_off(lease, "stale")
        self._suspect = {lease.token for lease in taken}
        self._events.forget(lambda task: self._leases.of_task(task) is not None)

    async def _show_all(self) -> None:
        await self._show(self._nodes.connected())

    async def _show(self, nodes: list[str]) -> None:
        known = [(node, self._nodes.presence(node)) for node in nodes]
        presences = [(node, msgspec.json.encode(presence)) for node, presence in known if presence is not None]
        for node in await self._peers.show(presences) if presences else []:
            self._nodes.moved_away(node, "the node has begun another session")

    async def _rise(self, node: str) -> None:
        if self._nodes.presence(node) is None:
            await self._peers.rise(node)

    # messages

    def _gather(self) -> None:
        """Add to what is to be told what is told in sum."""
        self._interest.tell(follows=self._feed.followed)
        waits = {key: change for key, change in self._waits.items() if change}
        self._waits.clear()
        if waits:
            self._post.tell(Waits(waits))
        if self._members.others and (runs := self._running.news()):
            self._post.tell(Runs(runs))
        if self._changed_tasks or self._changed_nodes or self._changed_accounts:
            changed = Changed(list(self._changed_tasks), list(self._changed_nodes), list(self._changed_accounts))
            self._changed_tasks, self._changed_nodes, self._changed_accounts = {}, {}, set()
            for name in self._interest.followers:
                self._post.tell(changed, name)
        if self._to_show:
            nodes, self._to_show = list(self._to_show), set()
            self._do(partial(self._show, nodes))

    def _received(self, letter: Letter) -> None:
        if letter.sender not in self._members.others:
            self._do(self._see_others)
        for message in letter.messages:
            self._hear(letter.sender, message)

    def _hear(self, sender: str, message: Message) -> None:
        match message:
            case Waits(changes):
                self._do(partial(self._hear_of_waiting, changes))
            case Ended(task, state, status, error):
                self._end(task, state, status, error)
            case Moved(node):
                self._do(partial(self._check_moved, node))
            case Removed(node):
                self._do(partial(self._nodes.node_removed, node))
            case Joined(node, joined_ms):
                self._nodes.close(node, "the node has joined again", joined_ms)
            case Runs(counts):
                self._running.heard(sender, counts)
            case Lacks(lacks):
                now = self._monotonic()
                for key, lack in lacks.items():
                    self._heard.setdefault(key, {})[sender] = lack, now
            case Watch() | Unwatch() | Happened() | Follows() | Changed():
                self._hear_for_eyes(sender, message)

    def _hear_for_eyes(self, sender: str, message: Watch | Unwatch | Happened | Follows | Changed) -> None:
        match message:
            case Watch(tasks):
                self._interest.watch(sender, tasks)
            case Unwatch(tasks):
                self._interest.unwatch(sender, tasks)
            case Happened(task, events):
                self._events.take_in(sender, task, events)
            case Follows(follows):
                (self._interest.followers.add if follows else self._interest.followers.discard)(sender)
            case Changed(tasks, nodes, accounts):
                self._feed.take_in(tasks, nodes, accounts)

    async def _check_moved(self, node: str) -> None:
        """Let go of a node that is elsewhere, unless it has come back since that was told."""
        if not any(one.replica == self._peers.name for one in await self._peers.shown([node])):
            self._nodes.moved_away(node, "the node has begun another session")

    async def _hear_of_waiting(self, changes: dict[str, int]) -> None:
        unknown = [key for key in changes if key not in self._revisions]
        for revision, account in await self._peers.revisions(unknown) if unknown else []:
            self._revisions[revision.key] = revision, account
            if len(self._revisions) > KNOWN_REVISIONS:
                del self._revisions[next(iter(self._revisions))]
        for key, change in changes.items():
            if key in self._revisions:
                self._queue.heard(*self._revisions[key], change)

    def _end(self, task: str, state: State, status: int, error: str | None) -> None:
        """Take in that a task has ended: a node here that holds it stops, and whoever watches it here is told."""
        holding = self._leases.of_task(task)
        if holding is not None:
            self._call_off(holding.lease, "cancelled" if state is State.CANCELLED else "stale")
        content = {"state": state, "status": status, "error": error}
        self._events.take_in("", task, [Event(0, "end", content, int(self._wall() * 1000))])

    def _call_off(self, lease: Lease, reason: Any) -> None:
        holding = self._leases.drop(lease)
        if holding is not None:
            self._queue.send(holding.node, Abandon(lease, reason))

    def _do(self, work: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.create_task(self._try(work))
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    @staticmethod
    async def _try(work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except StoreUnavailable as error:
            log.warning("the store does not answer", error=str(error))


def _presence(content: bytes) -> Presence:
    return msgspec.json.decode(content, type=Presence)
