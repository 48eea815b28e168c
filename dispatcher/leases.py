"""Who holds which task, and until when. Pure: time is given to it, and is monotonic.

Leases live here and not in the store, so that a wall clock that jumps changes nothing. The store
holds what fences them: task, attempt, token and node. A dispatcher that starts takes up what it
finds there with a full period for each, which gives every node the time to come back.
"""

from __future__ import annotations

import heapq
from enum import Enum

from msgspec import Struct

from agent.protocol import LEASE_SECONDS, OFFER_SECONDS, Lease, Progress, Revision
from dispatcher.running import Running
from dispatcher.store.records import Leased, State
from dispatcher.traces import Trace


class Stage(Enum):
    """How far a lease is."""

    OFFERED = "offered"
    ACCEPTED = "accepted"


class Holding(Struct):
    """One task in the hands of one node.

    Attributes:
        deadline: Monotonic seconds: the answer to the offer is due, or the next renewal.
        shown: The last progress taken; one that is older, or says the same, is not shown again.
        trace: Where its spans belong; None where nobody records them.
    """

    lease: Lease
    account: str
    node: str
    revision: Revision
    stage: Stage
    deadline: float
    shown: Progress | None = None
    trace: Trace | None = None


class LeaseTable:
    """All holdings of the nodes whose sessions are here.

    Args:
        running: Told of what begins and ends.
    """

    def __init__(self, running: Running | None = None) -> None:
        self._running = running or Running()
        self._by_token: dict[bytes, Holding] = {}
        self._by_task: dict[str, bytes] = {}
        self._by_node: dict[str, set[bytes]] = {}
        self._deadlines: list[tuple[float, bytes]] = []
        """A heap. A renewal leaves its entry where it is; `due` puts it back with the new deadline."""

    def __len__(self) -> int:
        return len(self._by_token)

    def grant(
        self,
        lease: Lease,
        account: str,
        node: str,
        revision: Revision,
        *,
        now: float,
        stage: Stage = Stage.OFFERED,
        period: float = OFFER_SECONDS,
    ) -> Holding:
        """Give a task to a node for so many seconds. An earlier lease of the same task ends."""
        earlier = self._by_task.get(lease.task)
        if earlier is not None:
            self._remove(earlier)
        holding = Holding(lease, account, node, revision, stage, now + period)
        self._running.began(account)
        self._by_token[lease.token] = holding
        self._by_task[lease.task] = lease.token
        self._by_node.setdefault(node, set()).add(lease.token)
        heapq.heappush(self._deadlines, (holding.deadline, lease.token))
        return holding

    def find(self, lease: Lease, node: str) -> Holding | None:
        """Give the holding that a node names, if it is this node's and this very lease."""
        holding = self._by_token.get(lease.token)
        if holding is None or holding.node != node or holding.lease != lease:
            return None
        return holding

    def of_task(self, task: str) -> Holding | None:
        """Give the holding of a task."""
        token = self._by_task.get(task)
        return self._by_token[token] if token is not None else None

    def of_node(self, node: str) -> list[Holding]:
        """List what a node holds."""
        return [self._by_token[token] for token in self._by_node.get(node, ())]

    def all(self) -> list[Holding]:
        """List all holdings."""
        return list(self._by_token.values())

    def accepted(self, holding: Holding, now: float) -> None:
        """Note that the node took the offer."""
        holding.stage = Stage.ACCEPTED
        holding.deadline = now + LEASE_SECONDS

    def prolong(self, holding: Holding, now: float) -> None:
        """Give a holding a full period while its answer is being written down."""
        holding.deadline = now + LEASE_SECONDS

    def forgive(self, seconds: float) -> None:
        """Put all deadlines off, by a time in which nobody here could have taken a renewal in."""
        for holding in self._by_token.values():
            holding.deadline += seconds

    def restore(self, holding: Holding, now: float, period: float) -> None:
        """Take a holding up again that was ended too early, unless its task has another holder by now."""
        if holding.lease.task not in self._by_task:
            again = self.grant(
                holding.lease,
                holding.account,
                holding.node,
                holding.revision,
                now=now,
                stage=holding.stage,
                period=period,
            )
            again.trace = holding.trace

    def take_up(self, leased: Leased, now: float) -> None:
        """Watch over what a node holds by the store, unless somebody does already: for a full lease from now on.

        That goes for offers, too: only the node can tell whether it accepted.
        """
        if leased.lease.task not in self._by_task:
            stage = Stage.OFFERED if leased.state is State.OFFERED else Stage.ACCEPTED
            self.grant(
                leased.lease,
                leased.account,
                leased.node,
                leased.revision,
                now=now,
                stage=stage,
                period=LEASE_SECONDS,
            )

    def renew(self, lease: Lease, node: str, now: float) -> bool:
        """Give an accepted lease another full period; False where it is not the node's."""
        holding = self.find(lease, node)
        if holding is None:
            return False
        if holding.stage is Stage.ACCEPTED:
            holding.deadline = now + LEASE_SECONDS
        return True

    def drop(self, lease: Lease) -> Holding | None:
        """End a lease; None where it had ended already."""
        holding = self._by_token.get(lease.token)
        if holding is None or holding.lease != lease:
            return None
        self._remove(lease.token)
        return holding

    def due(self, now: float) -> list[Holding]:
        """End and give the leases whose deadline has passed."""
        ended = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, token = heapq.heappop(self._deadlines)
            holding = self._by_token.get(token)
            if holding is None:
                continue
            if holding.deadline > now:
                heapq.heappush(self._deadlines, (holding.deadline, token))
                continue
            self._remove(token)
            ended.append(holding)
        return ended

    def next_deadline(self) -> float | None:
        """Say when to call `due` next, at the latest; None while nobody holds anything."""
        return self._deadlines[0][0] if self._deadlines else None

    def _remove(self, token: bytes) -> None:
        holding = self._by_token.pop(token)
        self._running.ended(holding.account)
        del self._by_task[holding.lease.task]
        tokens = self._by_node[holding.node]
        tokens.discard(token)
        if not tokens:
            del self._by_node[holding.node]
