"""Which node may run a task, and which should. Pure: it is told what is so and says what to do.

The cost of a match grows neither with the number of nodes nor with the length of the queue. Tasks
are known only by their revision and a count; revisions with the same requirements share a `_Class`,
which keeps the set of nodes that could take one of them now. A node's change touches the classes
with demand, a match looks at a handful of nodes: those with a warm container of the revision, then
those with its image, then a random few of the rest, of which the nearest and least loaded is taken (the best of
two random choices is known to balance nearly as well as the best of all; Mitzenmacher 1996).
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable

from msgspec import Struct

from agent.protocol import Capabilities, Credit, Revision, share

SAMPLE = 8
"""Nodes that are looked at for one match in each round of preference."""

NO_NODE = "no node is connected"

OWNERS_REMEMBERED = 10_000

PARK_SECONDS = 0.5
"""A revision that every node looked at has just declined is tried again after so long."""


class Match(Struct, frozen=True):
    """Room on a node for one task of a revision. It is held until `Matching.settle` or the node's next credit."""

    node: str
    revision: Revision
    number: int
    """The offer's number in the node's session; see `agent.protocol.Credit.offers_seen`."""
    session: int
    """Tells the sessions of a node apart: another one counts its offers anew."""


class _Need(Struct, frozen=True):
    """What a node must be. Revisions with equal needs share a class."""

    cpu_count: float
    mem_size: int
    network_latency: float
    privileged: bool
    internet: bool
    sharing: int


class _Node(Struct):
    id: str
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
    """Revisions that the node declined, and until when it is not asked again."""

    def free(self) -> tuple[float, int, int]:
        cpu, memory = self.credit.cpu, self.credit.memory
        for share_cpu, share_memory in self.under_way.values():
            cpu -= share_cpu
            memory -= share_memory
        return cpu, memory, self.credit.slots - len(self.under_way)


class _Class:
    """Revisions that ask the same of a node, and the nodes that could take one of them now."""

    def __init__(self, need: _Need) -> None:
        self.need = need
        self.turn: deque[str] = deque()
        """Accounts with demand, whose turn goes round."""
        self.lines: dict[str, deque[str]] = {}
        """Of each of them, the keys of its revisions with demand, whose turn goes round in the same way."""
        self.ready = SampledSet()
        self.in_turn = False
        """It stands in `Matching._turn`."""


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
    added: int
    """Grows with each task added, so that a claim that found too few can tell which came after it."""
    count: int = 0
    in_turn: bool = False
    """It stands in a line of its `_Class`."""


class Matching:
    """Nodes with their credit on one side, revisions with their demand on the other."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._nodes: dict[str, _Node] = {}
        self._classes: dict[_Need, _Class] = {}
        self._demand: dict[str, _Demand] = {}
        self._warm: dict[str, SampledSet] = {}
        self._images: dict[str, SampledSet] = {}
        self._owners: dict[str, str] = {}
        """Accounts of functions, as far as they are known: those called last."""
        self._parked: dict[str, float] = {}
        """Revisions that every node looked at declined, and until when they rest."""
        self._serial = 0
        """Counts tasks added and sessions begun: marks of what came before and after."""
        self._turn: deque[_Class] = deque()
        """Classes that have both demand and a ready node: all that a match has to look at."""

    # nodes

    def node_joined(
        self, node_id: str, capabilities: Capabilities, credit: Credit, images: Iterable[str], warm: Iterable[str]
    ) -> None:
        """Take up a node whose session has just begun; what was known of an earlier session is forgotten."""
        self.node_left(node_id)
        self._serial += 1
        self._nodes[node_id] = node = _Node(node_id, capabilities, credit, set(), set(), self._serial)
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
            node.capabilities = capabilities
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

    def node_declined(self, node_id: str, revision_key: str, until: float) -> None:
        """Do not ask a node for a revision again before a time of the monotonic clock."""
        node = self._nodes.get(node_id)
        if node is not None:
            node.shunned[revision_key] = until

    def node_left(self, node_id: str) -> None:
        """Forget a node."""
        node = self._nodes.pop(node_id, None)
        if node is None:
            return
        self._index(self._images, node.images, node_id, ())
        self._index(self._warm, node.warm, node_id, ())
        for klass in self._classes.values():
            klass.ready.discard(node_id)

    # demand

    def added(self, revision: Revision, count: int = 1) -> None:
        """Note that so many more tasks of a revision wait."""
        demand = self._demand.get(revision.key)
        if demand is None:
            # From here on, so that a mark made before never counts what comes now as old.
            demand = self._demand[revision.key] = _Demand(revision, added=self._serial)
        self._serial += count
        demand.count += count
        demand.added += count
        self._take_turns(demand)

    def owned(self, function: str, account: str) -> None:
        """Note whose function it is. Until that is known, it takes turns as if its account had no other."""
        if self._owners.pop(function, None) is None and len(self._owners) >= OWNERS_REMEMBERED:
            del self._owners[next(iter(self._owners))]
        self._owners[function] = account

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

    def recounted(self, counted: Iterable[tuple[Revision, int]], marks: dict[str, int]) -> None:
        """Take over how many tasks wait by the store, which counted them after ``marks`` were made.

        What was claimed since makes the figures too high, which costs a claim that finds nothing.
        """
        found = {revision.key: count for revision, count in counted}
        for key, demand in self._demand.items():
            demand.count = found.pop(key, 0) + demand.added - marks.get(key, demand.added - demand.count)
        for revision, _ in counted:
            if revision.key in found:
                self.added(revision, found[revision.key])
            elif self._demand[revision.key].count > 0:
                self._take_turns(self._demand[revision.key])

    def waiting(self) -> list[Revision]:
        """List the revisions with demand."""
        return [demand.revision for demand in self._demand.values() if demand.count > 0]

    def unmet(self, revision: Revision) -> str | None:
        """Say which requirement no node here meets, or None where some node meets them all.

        The cost grows with the number of nodes: it is for the sweeper, not for a match.
        """
        need = _need_of(revision)
        nodes = self._nodes.values()
        if not nodes:
            return NO_NODE
        if any(_may(node.capabilities, need) for node in nodes):
            return None
        met = [_checks(node.capabilities, need) for node in nodes]
        missing = [name for name in met[0] if not any(checks[name] for checks in met)]
        return f"no node offers {' and '.join(missing)}" if missing else "no node meets all requirements at once"

    # matches

    def next(self, now: float) -> Match | None:
        """Give the next match and hold its room, or None where nothing fits for now."""
        for _ in range(len(self._turn)):
            klass = self._turn[0]
            match = self._match_in(klass, now)
            if klass.turn and klass.ready:
                self._turn.rotate(-1)
            else:
                self._turn.popleft()
                klass.in_turn = False
            if match is not None:
                return match
        return None

    def wake_at(self, now: float) -> float | None:
        """Say when a revision that every node declined may be tried again, or None."""
        self._parked = {key: until for key, until in self._parked.items() if until > now}
        return min(self._parked.values(), default=None)

    def is_held(self, match: Match) -> bool:
        """Say whether the session of the node that a match was made with still stands."""
        node = self._nodes.get(match.node)
        return node is not None and node.session == match.session

    def settle(self, match: Match) -> None:
        """Let go of the room of a match that came to no offer."""
        if self.is_held(match):
            node = self._nodes[match.node]
            node.under_way.pop(match.number, None)
            self._place(node)

    def _match_in(self, klass: _Class, now: float) -> Match | None:
        for _ in range(len(klass.turn)):
            account = klass.turn[0]
            match = self._match_of(klass.lines[account], klass, now)
            if klass.lines[account]:
                klass.turn.rotate(-1)
            else:
                klass.turn.popleft()
                del klass.lines[account]
            if match is not None or not klass.ready:
                return match
        return None

    def _match_of(self, line: deque[str], klass: _Class, now: float) -> Match | None:
        for _ in range(len(line)):
            key = line[0]
            demand = self._demand[key]
            if demand.count <= 0:
                line.popleft()
                del self._demand[key]
                continue
            line.rotate(-1)
            if self._parked.get(key, now) > now:
                continue
            node = self._choose(demand.revision, klass, now)
            if node is not None:
                demand.count -= 1
                node.offers += 1
                node.under_way[node.offers] = demand.revision.share_of(node.capabilities)
                self._place(node)
                return Match(node.id, demand.revision, node.offers, node.session)
            if not klass.ready:
                return None
            self._parked[key] = now + PARK_SECONDS
        return None

    def _choose(self, revision: Revision, klass: _Class, now: float) -> _Node | None:
        for holders in (self._warm.get(revision.key), self._images.get(revision.image)):
            if not holders:
                continue
            near = (node_id for node_id in holders.sample(SAMPLE, self._rng) if node_id in klass.ready)
            chosen = self._best(near, revision.key, now)
            if chosen is not None:
                return chosen
        return self._best(klass.ready.sample(SAMPLE, self._rng), revision.key, now)

    def _best(self, node_ids: Iterable[str], revision_key: str, now: float) -> _Node | None:
        best: tuple[tuple[int, float], _Node] | None = None
        for node_id in node_ids:
            node = self._nodes[node_id]
            until = node.shunned.get(revision_key)
            if until is not None:
                if until > now:
                    continue
                del node.shunned[revision_key]
            cpu, _, _ = node.free()
            # By powers of two: round trips that are about as long count as alike.
            distance = int(node.capabilities.network_latency or 0).bit_length()
            rank = (-distance, cpu / (node.capabilities.cpu_count or 1))
            if best is None or rank > best[0]:
                best = (rank, node)
        return best[1] if best else None

    # classes

    def _class_of(self, revision: Revision) -> _Class:
        need = _need_of(revision)
        klass = self._classes.get(need)
        if klass is None:
            self._forget_idle_classes()
            klass = self._classes[need] = _Class(need)
            for node in self._nodes.values():
                if _can_take(node, need):
                    klass.ready.add(node.id)
        return klass

    def _forget_idle_classes(self, keep: int = 64) -> None:
        if len(self._classes) < keep:
            return
        for need in [need for need, klass in self._classes.items() if not klass.turn and not klass.in_turn]:
            del self._classes[need]

    def _place(self, node: _Node) -> None:
        """Put a node into the classes of which it could take a task now, and out of the others."""
        for klass in self._classes.values():
            if _can_take(node, klass.need):
                klass.ready.add(node.id)
                self._enqueue(klass)
            else:
                klass.ready.discard(node.id)

    def _take_turns(self, demand: _Demand) -> None:
        if not demand.in_turn:
            klass = self._class_of(demand.revision)
            account = self._owners.get(demand.revision.function, demand.revision.function)
            if account not in klass.lines:
                klass.lines[account] = deque()
                klass.turn.append(account)
            klass.lines[account].append(demand.revision.key)
            demand.in_turn = True
            self._enqueue(klass)

    def _enqueue(self, klass: _Class) -> None:
        if klass.turn and klass.ready and not klass.in_turn:
            self._turn.append(klass)
            klass.in_turn = True

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


def _need_of(revision: Revision) -> _Need:
    return _Need(
        revision.cpu_count,
        revision.mem_size,
        revision.network_latency,
        revision.privileged,
        revision.network == "internet",
        revision.sharing,
    )


def _near(capabilities: Capabilities, need: _Need) -> bool:
    if not need.network_latency:
        return True
    return capabilities.network_latency is not None and capabilities.network_latency <= need.network_latency


def _checks(capabilities: Capabilities, need: _Need) -> dict[str, bool]:
    return {
        f"cpuCount {need.cpu_count:g}": capabilities.cpu_count >= need.cpu_count,
        f"memSize {need.mem_size} MiB": capabilities.mem_size >= need.mem_size,
        f"networkLatency {need.network_latency:g} ms": _near(capabilities, need),
        "privileged": capabilities.privileged or not need.privileged,
        "network internet": capabilities.internet or not need.internet,
    }


def _may(capabilities: Capabilities, need: _Need) -> bool:
    return (
        capabilities.cpu_count >= need.cpu_count
        and capabilities.mem_size >= need.mem_size
        and _near(capabilities, need)
        and (capabilities.privileged or not need.privileged)
        and (capabilities.internet or not need.internet)
    )


def _can_take(node: _Node, need: _Need) -> bool:
    if not node.available or not _may(node.capabilities, need):
        return False
    cpu, memory, slots = node.free()
    share_cpu, share_memory = share(need.cpu_count, need.mem_size, node.capabilities, need.sharing)
    # A hair of tolerance: sums of fractions of a CPU are not exact.
    return slots > 0 and cpu + 1e-6 >= share_cpu and memory >= share_memory
