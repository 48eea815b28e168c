"""Which node may run a task, and which should. Pure: it is told what is so and says what to do.

The cost of a match grows neither with the number of nodes nor with the length of the queue. Tasks
are known only by their revision and a count; revisions with the same requirements share a `_Class`,
which keeps the set of nodes that could take one of them now. Nodes that are alike share a `_Shape`, which knows the
classes with demand that such a node could ever serve: a node's change touches those alone. A match looks at the
classes for which there is room, takes the one where the account stands that was served longest ago (see
`dispatcher.turns`), and looks at a handful of nodes: those with a warm container of the revision, then
those with its image, then a random few of the rest, of which the nearest and least loaded is taken (the best of
two random choices is known to balance nearly as well as the best of all; Mitzenmacher 1996). A container that has
just become free has the next task of its revision before another function of the account is started, for a moment:
see `Matching.freed`.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable
from math import inf
from typing import NamedTuple

from msgspec import Struct

from agent.protocol import Capabilities, Credit, Revision, share
from dispatcher.needs import Lack, Need
from dispatcher.running import Running
from dispatcher.turns import Line, Lines, Turns

SAMPLE = 8
"""Nodes that are looked at for one match in each round of preference."""

KEPT_CLASSES = 64
"""Classes without demand go when there are so many, and then when there are twice as many as stayed."""

NO_ROOM = (-inf, -inf, None)

PARK_SECONDS = 0.5
"""A revision that every node looked at has just declined is tried again after so long."""


STAY_SECONDS = 0.5
"""So long a revision whose containers become free may go before the others of its account: about what a start takes."""


class Match(Struct, frozen=True):
    """Room on a node for one task of a revision. It is held until `Matching.settle` or the node's next credit."""

    node: str
    revision: Revision
    account: str
    number: int
    """The offer's number in the node's session; see `agent.protocol.Credit.offers_seen`."""
    session: int
    """Tells the sessions of a node apart: another one counts its offers anew."""


class _Node(Struct):
    id: str
    shape: _Shape
    capabilities: Capabilities
    credit: Credit
    images: set[str]
    warm: set[str]
    session: int
    available: bool = True
    offers: int = 0
    """Offers made in this session."""
    under_way: dict[int, tuple[float, int]] = {}
    """Share of cpu and memory of each offer that the node's credit does not know of yet."""
    shunned: dict[str, float] = {}
    """Keys of revisions, and accounts, that the node declined, and until when it is not asked again."""
    placed: tuple[float, float, float | None] = NO_ROOM
    """Its room when it was put into its classes last."""

    def free(self) -> tuple[float, int, int]:
        cpu, memory = self.credit.cpu, self.credit.memory
        for share_cpu, share_memory in self.under_way.values():
            cpu -= share_cpu
            memory -= share_memory
        return cpu, memory, self.credit.slots - len(self.under_way)

    def is_shunned(self, what: str, now: float) -> bool:
        """Say whether the node is not to be asked for a revision or an account."""
        until = self.shunned.get(what)
        if until is None or until > now:
            return until is not None
        del self.shunned[what]
        return False

    def room(self) -> tuple[float, float, float | None]:
        """Say what the classes that it could serve depend on: its distance, and what is free, if it takes tasks."""
        cpu, memory, slots = self.free()
        if not self.available or slots <= 0:
            return NO_ROOM
        return cpu, memory, self.capabilities.network_latency


class _Class:
    """Revisions that ask the same of a node, and the nodes that could take one of them now."""

    def __init__(self, need: Need, turns: Turns) -> None:
        self.need = need
        self.lines = Lines(turns, need)
        self.ready = SampledSet()


class _Fit(NamedTuple):
    """A class that nodes of a shape could serve, but for their distance, and what a task of it takes up there."""

    klass: _Class
    cpu: float
    memory: int


_Key = tuple[float, int, bool, bool]


class _Shape:
    """Nodes that are alike but for their distance and what is free."""

    def __init__(self, key: _Key, capabilities: Capabilities) -> None:
        self.key = key
        self.capabilities = capabilities
        self.nodes: dict[str, _Node] = {}
        self.fits: list[_Fit] = []

    def look_at(self, klass: _Class) -> bool:
        """Take a class up, if such a node could serve it."""
        need = klass.need
        fits = need.is_met(self.capabilities)
        if fits:
            taken = share(need.cpu_count, need.mem_size, self.capabilities, need.sharing)
            self.fits.append(_Fit(klass, *taken))
        return fits


class SampledSet:
    """A set that gives random members in constant time."""

    def __init__(self) -> None:
        self._items: list[str] = []
        self._places: dict[str, int] = {}

    def __contains__(self, item: str) -> bool:
        return item in self._places

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: str) -> None:
        """Put an item in; once is enough."""
        if item not in self._places:
            self._places[item] = len(self._items)
            self._items.append(item)

    def discard(self, item: str) -> None:
        """Take an item out, if it is in."""
        place = self._places.pop(item, None)
        if place is None:
            return
        last = self._items.pop()
        if last != item:
            self._items[place] = last
            self._places[last] = place

    def sample(self, count: int, rng: random.Random) -> list[str]:
        """Give up to ``count`` members from a random place on, each once: as likely as another, and cheaply."""
        items = self._items
        if len(items) <= count:
            return items.copy()
        start = int(rng.random() * len(items))
        return items[start : start + count] + items[: max(0, start + count - len(items))]


class _Demand(Struct):
    revision: Revision
    account: str
    added: int
    """Grows with each task added, so that a claim that found too few can tell which came after it."""
    count: int = 0
    in_turn: bool = False
    """It stands in a line of its `_Class`, or rests."""
    line: Line | None = None
    """That line; None while it rests."""
    ahead: bool = False
    """It stands before its turn."""
    stays_until: float | None = None
    """It may do so until then; None since it was its turn."""


class Matching:
    """Nodes with their credit on one side, revisions with their demand on the other.

    Args:
        running: Who may have no more tasks with nodes; told of each match, until `settle` or `offered`.
    """

    def __init__(self, rng: random.Random, running: Running | None = None) -> None:
        self._running = running or Running()
        self._rng = rng
        self._nodes: dict[str, _Node] = {}
        self._shapes: dict[_Key, _Shape] = {}
        self._classes: dict[Need, _Class] = {}
        self._classes_kept = KEPT_CLASSES
        self._demand: dict[str, _Demand] = {}
        self._warm: dict[str, SampledSet] = {}
        self._images: dict[str, SampledSet] = {}
        self._parked: deque[tuple[float, _Demand]] = deque()
        """Revisions that every node looked at declined, and until when they rest, in this order."""
        self._serial = 0
        """Counts tasks added and sessions begun: marks of what came before and after."""
        self._turns = Turns(self._running.is_full)
        self._open: dict[_Class, None] = {}
        """Classes that have both demand and a ready node: all that a match has to look at. Some have no more."""

    # nodes

    def node_joined(
        self, node_id: str, capabilities: Capabilities, credit: Credit, images: Iterable[str], warm: Iterable[str]
    ) -> None:
        """Take up a node whose session has just begun; what was known of an earlier session is forgotten."""
        self.node_left(node_id)
        self._serial += 1
        shape = self._shape_of(capabilities)
        self._nodes[node_id] = node = _Node(node_id, shape, capabilities, credit, set(), set(), self._serial)
        shape.nodes[node_id] = node
        self._index(self._images, node.images, node_id, images)
        self._index(self._warm, node.warm, node_id, warm)
        self._place(node)

    def node_changed(
        self,
        node_id: str,
        *,
        credit: Credit | None = None,
        capabilities: Capabilities | None = None,
        available: bool | None = None,
        images: Iterable[str] | None = None,
        warm: Iterable[str] | None = None,
    ) -> None:
        """Take in what a node says of itself. Nothing happens for a node that is not here."""
        node = self._nodes.get(node_id)
        if node is None:
            return
        # A credit that was overtaken by a later one, as heartbeats overtake, says nothing new.
        if credit is not None and credit.offers_seen >= node.credit.offers_seen:
            node.credit = credit
            for number in [number for number in node.under_way if number <= credit.offers_seen]:
                del node.under_way[number]
        if capabilities is not None:
            self._reshape(node, capabilities)
        if available is not None:
            node.available = available
        if images is not None:
            self._index(self._images, node.images, node_id, images)
        if warm is not None:
            self._index(self._warm, node.warm, node_id, warm)
        self._place(node)

    def node_warmed(self, node_id: str, revision_key: str) -> None:
        """Note that a node has just run a revision: the next task of it had best go there again."""
        node = self._nodes.get(node_id)
        if node is not None:
            node.warm.add(revision_key)
            self._warm.setdefault(revision_key, SampledSet()).add(node_id)

    def node_declined(self, node_id: str, what: str, until: float) -> None:
        """Do not ask a node for a revision, by its key, or for an account before a time of the monotonic clock."""
        node = self._nodes.get(node_id)
        if node is not None:
            node.shunned[what] = until

    def node_left(self, node_id: str) -> None:
        """Forget a node."""
        node = self._nodes.pop(node_id, None)
        if node is None:
            return
        self._index(self._images, node.images, node_id, ())
        self._index(self._warm, node.warm, node_id, ())
        self._leave_shape(node)

    def freed(self, revision_key: str, now: float) -> None:
        """Let a revision go before its turn, a container of which has just become free.

        So a node runs what waits for its warm containers before it starts others. The others of the account wait for
        `STAY_SECONDS` at most, and a task; then it is their turn, until it is the revision's own again. Where a node
        has a warm container of the one whose turn it is, there is no start to be put off, and it does not wait.
        """
        demand = self._demand.get(revision_key)
        if demand is None or demand.line is None:
            return
        turn = next((key for key in demand.line.keys if not self._demand[key].ahead), revision_key)
        if self._warm.get(turn):
            return
        if demand.stays_until is None:
            demand.stays_until = now + STAY_SECONDS
        if now < demand.stays_until:
            demand.ahead = True
            demand.line.go_on_with(revision_key)

    # demand

    def added(self, revision: Revision, account: str, count: int = 1) -> None:
        """Note that so many more tasks of a revision wait, whose function is the account's."""
        demand = self._demand.get(revision.key)
        if demand is None:
            # From here on, so that a mark made before never counts what comes now as old.
            demand = self._demand[revision.key] = _Demand(revision, account, added=self._serial)
        self._serial += count
        demand.count += count
        demand.added += count
        self._take_turns(demand)

    def demand(self, revision_key: str) -> int:
        """Say how many tasks of a revision wait, and were not matched yet."""
        demand = self._demand.get(revision_key)
        return demand.count if demand is not None else 0

    def mark(self) -> dict[str, int]:
        """Remember what was added up to now, for `recounted`."""
        return {key: demand.added for key, demand in self._demand.items()}

    def mark_of(self, revision_key: str) -> int:
        """Remember what was added of a revision up to now, for `found_fewer`."""
        demand = self._demand.get(revision_key)
        return demand.added if demand is not None else self._serial

    def found_fewer(self, revision_key: str, mark: int) -> None:
        """Note that a claim found fewer tasks than it asked for: only those added since ``mark`` can be there."""
        demand = self._demand.get(revision_key)
        if demand is not None:
            demand.count = min(demand.count, max(0, demand.added - mark))

    def fewer(self, revision_key: str, count: int) -> None:
        """Note that so many tasks of a revision wait no more."""
        demand = self._demand.get(revision_key)
        if demand is not None:
            demand.count = max(0, demand.count - count)

    def recounted(self, counted: Iterable[tuple[Revision, str, int]], marks: dict[str, int]) -> None:
        """Take over how many tasks wait by the store, which counted them after ``marks`` were made.

        What was claimed since makes the figures too high, which costs a claim that finds nothing.

        Args:
            counted: Revisions, whose their functions are, and how many tasks of them wait.
        """
        counted = list(counted)
        found = {revision.key: count for revision, _, count in counted}
        for key, demand in self._demand.items():
            demand.count = found.pop(key, 0) + demand.added - marks.get(key, demand.added - demand.count)
        for revision, account, _ in counted:
            if revision.key in found:
                self.added(revision, account, found[revision.key])
            elif self._demand[revision.key].count > 0:
                self._take_turns(self._demand[revision.key])

    def has_room(self, account: str) -> None:
        """Match an account's tasks again: fewer of them are with nodes than may be."""
        for need in self._turns.has_room(account):
            self._look_at(self._classes[need])

    def waiting(self) -> list[Revision]:
        """List the revisions with demand."""
        return [demand.revision for demand in self._demand.values() if demand.count > 0]

    def lacks(self) -> list[tuple[Revision, str, Lack | None]]:
        """Say of each revision with demand, and its account, why no node here could ever run it; None where one could.

        The cost is that of the revisions, and of the classes times the shapes of nodes; only where distance is asked
        for, and no node is ready, each node is looked at. It is for the sweeper, not for a match.
        """
        found: dict[Need, Lack | None] = {}
        lacks = []
        for demand in self._demand.values():
            if demand.count > 0:
                need = Need.of(demand.revision)
                if need not in found:
                    found[need] = self._lack(need)
                lacks.append((demand.revision, demand.account, found[need]))
        return lacks

    def _lack(self, need: Need) -> Lack | None:
        klass = self._classes.get(need)
        if klass is not None and klass.ready:
            return None
        if need.network_latency:
            return Lack.of(need, (node.capabilities for node in self._nodes.values()))
        return Lack.of(need, (shape.capabilities for shape in self._shapes.values()))

    # matches

    def next(self, now: float) -> Match | None:
        """Give the next match and hold its room, or None where nothing fits for now.

        The cost is that of the classes for which there is room: the accounts in each of them stand in a heap.
        """
        while self._parked and self._parked[0][0] <= now:
            _, demand = self._parked.popleft()
            demand.in_turn = False
            self._take_turns(demand)
        while (found := self._first()) is not None:
            line, klass = found
            match = self._match_of(line, klass, now)
            if match is not None:
                self._turns.serve(line)
                self._running.began(match.account)
                return match
        return None

    def wake_at(self, now: float) -> float | None:
        """Say when a revision that every node declined may be tried again, or None."""
        return max(now, self._parked[0][0]) if self._parked else None

    def is_held(self, match: Match) -> bool:
        """Say whether the session of the node that a match was made with still stands."""
        node = self._nodes.get(match.node)
        return node is not None and node.session == match.session

    def offered(self, match: Match) -> None:
        """Note that a match came to an offer, and that its task counts as one that a lease is for."""
        self._running.ended(match.account)

    def settle(self, match: Match) -> None:
        """Let go of the room of a match that came to no offer."""
        self._running.ended(match.account)
        if self.is_held(match):
            node = self._nodes[match.node]
            node.under_way.pop(match.number, None)
            self._place(node)

    def _first(self) -> tuple[Line, _Class] | None:
        """Give the line whose turn it is, of those for which there is room."""
        first: tuple[Line, _Class] | None = None
        closed = []
        for klass in self._open:
            line = klass.lines.first() if klass.ready else None
            if line is None:
                closed.append(klass)
            elif first is None or line.place < first[0].place:
                first = line, klass
        for klass in closed:
            del self._open[klass]
        return first

    def _match_of(self, line: Line, klass: _Class, now: float) -> Match | None:
        """Match a revision of a line, or empty it: none of them waits any more, or they rest."""
        while line.keys:
            key = next(iter(line.keys))
            demand = self._demand[key]
            node = self._choose(demand, klass, now) if demand.count > 0 else None
            if node is not None:
                line.keys.move_to_end(key)
                demand.count -= 1
                if not demand.ahead:
                    demand.stays_until = None
                demand.ahead = False
                node.offers += 1
                node.under_way[node.offers] = demand.revision.share_of(node.capabilities)
                self._place(node)
                return Match(node.id, demand.revision, demand.account, node.offers, node.session)
            del line.keys[key]
            demand.line, demand.ahead = None, False
            if demand.count > 0:
                self._parked.append((now + PARK_SECONDS, demand))
            else:
                del self._demand[demand.revision.key]
        return None

    def _choose(self, demand: _Demand, klass: _Class, now: float) -> _Node | None:
        revision = demand.revision
        for holders in (self._warm.get(revision.key), self._images.get(revision.image)):
            if not holders:
                continue
            near = (node_id for node_id in holders.sample(SAMPLE, self._rng) if node_id in klass.ready)
            chosen = self._best(near, demand, now)
            if chosen is not None:
                return chosen
        return self._best(klass.ready.sample(SAMPLE, self._rng), demand, now)

    def _best(self, node_ids: Iterable[str], demand: _Demand, now: float) -> _Node | None:
        best: tuple[tuple[int, float], _Node] | None = None
        for node_id in node_ids:
            node = self._nodes[node_id]
            if node.shunned and (node.is_shunned(demand.revision.key, now) or node.is_shunned(demand.account, now)):
                continue
            cpu, _, _ = node.free()
            # By powers of two: round trips that are about as long count as alike.
            distance = int(node.capabilities.network_latency or 0).bit_length()
            rank = (-distance, cpu / (node.capabilities.cpu_count or 1))
            if best is None or rank > best[0]:
                best = (rank, node)
        return best[1] if best else None

    # classes

    def _class_of(self, revision: Revision) -> _Class:
        need = Need.of(revision)
        klass = self._classes.get(need)
        if klass is None:
            self._forget_idle_classes()
            klass = self._classes[need] = _Class(need, self._turns)
            for shape in self._shapes.values():
                if shape.look_at(klass):
                    for node in shape.nodes.values():
                        self._put(node, shape.fits[-1])
        return klass

    def _forget_idle_classes(self) -> None:
        if len(self._classes) < self._classes_kept:
            return
        wanted = {Need.of(demand.revision) for demand in self._demand.values()}
        for need in [need for need in self._classes if need not in wanted]:
            klass = self._classes.pop(need)
            klass.lines.first()  # takes out those in which nothing waits: all of them
            self._open.pop(klass, None)
        for shape in self._shapes.values():
            shape.fits = [fit for fit in shape.fits if fit.klass.need in wanted]
        self._classes_kept = max(KEPT_CLASSES, 2 * len(self._classes))

    def _take_turns(self, demand: _Demand) -> None:
        if not demand.in_turn:
            demand.in_turn = True
            klass = self._class_of(demand.revision)
            demand.line = self._turns.wait(klass.lines, demand.account, demand.revision.key)
            self._look_at(klass)

    def _look_at(self, klass: _Class) -> None:
        if klass.lines and klass.ready:
            self._open[klass] = None

    # nodes and their classes

    def _shape_of(self, capabilities: Capabilities) -> _Shape:
        key = (capabilities.cpu_count, capabilities.mem_size, capabilities.privileged, capabilities.internet)
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shapes[key] = _Shape(key, capabilities)
            for klass in self._classes.values():
                shape.look_at(klass)
        return shape

    def _reshape(self, node: _Node, capabilities: Capabilities) -> None:
        node.capabilities = capabilities
        shape = self._shape_of(capabilities)
        if shape is not node.shape:
            self._leave_shape(node)
            node.shape, node.placed = shape, NO_ROOM
            shape.nodes[node.id] = node

    def _leave_shape(self, node: _Node) -> None:
        for fit in node.shape.fits:
            fit.klass.ready.discard(node.id)
        del node.shape.nodes[node.id]
        if not node.shape.nodes:
            del self._shapes[node.shape.key]

    def _place(self, node: _Node) -> None:
        """Put a node into the classes of which it could take a task now, and out of the others."""
        room = node.room()
        if room != node.placed:
            node.placed = room
            for fit in node.shape.fits:
                self._put(node, fit)

    def _put(self, node: _Node, fit: _Fit) -> None:
        cpu, memory, _ = node.placed
        klass = fit.klass
        # A hair of tolerance: sums of fractions of a CPU are not exact.
        if cpu + 1e-6 >= fit.cpu and memory >= fit.memory and klass.need.is_near(node.capabilities):
            klass.ready.add(node.id)
            self._look_at(klass)
        else:
            klass.ready.discard(node.id)

    @staticmethod
    def _index(index: dict[str, SampledSet], held: set[str], node_id: str, now_held: Iterable[str]) -> None:
        """Make ``held`` what the node holds now, and the index agree with it."""
        now = set(now_held)
        for key in held - now:
            index[key].discard(node_id)
            if not index[key]:
                del index[key]
        for key in now - held:
            index.setdefault(key, SampledSet()).add(node_id)
        held.clear()
        held.update(now)
