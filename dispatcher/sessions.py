"""One node's WebSocket, from the hello to the goodbye.

A session trusts nothing: what breaks it ends the session, never the dispatcher, and what the node
held stays leased until the lease ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec
import structlog
from aiohttp import WSCloseCode, web

from agent.protocol import (
    FRAME_LIMIT,
    SILENCE_SECONDS,
    SUBPROTOCOL,
    Abandon,
    Accept,
    Credit,
    CreditNotice,
    Decline,
    DispatcherHeartbeat,
    DispatcherHello,
    GiveBack,
    NodeGoodbye,
    NodeHeartbeat,
    NodeHello,
    NodeMessage,
    Outcome,
    Output,
    Progress,
)
from dispatcher.attempts import Attempts, Unsound
from dispatcher.feed import Feed
from dispatcher.leases import LeaseTable
from dispatcher.matching import Matching
from dispatcher.metrics import Metrics
from dispatcher.presence import Presence
from dispatcher.queue import Limits, Outlet, Queue
from dispatcher.server import cut_off
from dispatcher.store.base import Store
from dispatcher.store.errors import StoreUnavailable
from dispatcher.store.records import Node
from dispatcher.wire import Broken, Wire

log = structlog.get_logger()

HELLO_SECONDS = 10.0
UNDER_WAY = 256
"""Messages of one node that may await the store at a time; beyond that its socket is not read."""

STORE_RETRY_SECONDS = 2.0

SEEN_TOGETHER = 200
"""Nodes whose last contact is written down together."""

WELCOMED_TOGETHER = 32
"""Nodes whose hello awaits the store at a time. When thousands come at once, a caller's task waits behind so many of
them in the store, and not behind them all."""

DRAIN_STEP_SECONDS = 0.05

CLOSE_BYTES = 123
"""Bytes of a reason that a closing frame has room for (RFC 6455)."""


class Seats(Protocol):
    """Where nodes have their sessions, as the dispatchers on one store tell each other."""

    async def sit(self, node: str, presence: Presence) -> None:
        """Note that a node has its session here, and take up what it holds by the store."""

    def rise(self, node: str) -> None:
        """Note that a node has no session here any more."""

    def show_soon(self, node: str) -> None:
        """Let the others see soon what a node says of itself."""


class Sessions:
    """All sessions of this dispatcher."""

    def __init__(
        self,
        store: Store,
        queue: Queue,
        attempts: Attempts,
        matching: Matching,
        leases: LeaseTable,
        *,
        feed: Feed,
        metrics: Metrics,
        limits: Limits,
        version: str,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._queue = queue
        self._attempts = attempts
        self._matching = matching
        self._leases = leases
        self._feed = feed
        self._metrics = metrics
        self._limits = limits
        self._version = version
        self._wall = wall
        self._monotonic = monotonic
        self._presence: dict[str, Presence] = {}
        self._open: dict[Wire, Node] = {}
        """Each session and its node, from before the hello to the end."""
        self._welcoming = asyncio.Semaphore(WELCOMED_TOGETHER)
        self._work: set[asyncio.Task[None]] = set()
        """What nodes said and the store has not confirmed yet. It outlives the session that it came by."""
        self._stopping = False
        self.seats: Seats | None = None

    @property
    def count(self) -> int:
        """Nodes that are connected here."""
        return len(self._presence)

    @property
    def taking_work(self) -> int:
        """Nodes that are connected here and take work."""
        return sum(presence.available for presence in self._presence.values())

    def presence(self, node_id: str) -> Presence | None:
        """Give what is known of a node that is connected here."""
        return self._presence.get(node_id)

    def presences_of(self, account: str) -> list[Presence]:
        """List what is known of the nodes of an account that are connected here."""
        return [presence for presence in self._presence.values() if presence.account == account]

    def connected(self) -> list[str]:
        """List the nodes that are connected here."""
        return list(self._presence)

    def moved_away(self, node_id: str, reason: str) -> None:
        """End every session of a node whose tasks are another dispatcher's to watch over."""
        for holding in self._leases.of_node(node_id):
            self._leases.drop(holding.lease)
        self.close(node_id, reason)

    async def node_removed(self, node_id: str) -> None:
        """Close the session of a node at once and put its tasks back."""
        self.close(node_id, "the node was removed")
        for holding in self._leases.of_node(node_id):
            self._leases.drop(holding.lease)
            await self._attempts.lost(holding, "the node was removed")

    def close(self, node_id: str, reason: str, joined_ms: int | None = None) -> None:
        """End every session of a node, those too that have not said hello yet. What it holds stays leased.

        Args:
            joined_ms: Leave those out that it has begun with the credential of this join.
        """
        for session, node in self._open.items():
            if node.id == node_id and node.joined_ms != joined_ms:
                session.close(reason)
                self._unseat(node_id, session)

    def close_all(self, reason: str, retry_after: Callable[[], float]) -> None:
        """Say goodbye to every node, and take no new sessions."""
        self._stopping = True
        for session in self._open:
            session.close(reason, retry_after())

    async def drain(self, reason: str, retry_after: float, seconds: float) -> None:
        """Say goodbye to one node after the other, so that they do not all come to another dispatcher at once."""
        self._stopping = True
        left = list(self._open)
        share = max(1, round(len(left) * DRAIN_STEP_SECONDS / seconds)) if seconds else len(left)
        while left:
            for session in left[:share]:
                session.close(reason, retry_after)
            del left[:share]
            await asyncio.sleep(DRAIN_STEP_SECONDS if left else 0)

    async def serve(self, request: web.Request, node: Node) -> web.WebSocketResponse:
        """Speak with a node that has proved who it is, until either side ends the session."""
        ws = web.WebSocketResponse(protocols=(SUBPROTOCOL,), compress=False, max_msg_size=FRAME_LIMIT, timeout=5.0)
        await ws.prepare(request)
        session = Wire(ws)
        self._open[session] = node
        if self._stopping:
            session.close("the dispatcher stops", retry_after=1.0)
        code, reason = int(WSCloseCode.OK), "goodbye"
        try:
            await self._converse(session, node)
        except* Broken as group:
            broken = _first(group)
            code, reason = broken.code, broken.reason
        except* StoreUnavailable as group:
            log.warning("session ends, the store does not answer", node=node.id, error=str(group.exceptions[0]))
            code, reason = WSCloseCode.TRY_AGAIN_LATER, "the store does not answer"
        except* ConnectionError:
            code, reason = WSCloseCode.GOING_AWAY, "the connection broke"
        finally:
            del self._open[session]
            self._unseat(node.id, session)
            if code == WSCloseCode.TRY_AGAIN_LATER:
                # The node does not read: a close that waits for its answer, or to be flushed, would never end.
                cut_off(request.transport)
            with contextlib.suppress(ConnectionError, TimeoutError):
                await ws.close(code=code, message=_closing_words(reason))
        self._metrics.session_ended(int(ws.close_code or code))
        log.info("session ended", node=node.id, reason=reason, code=int(ws.close_code or code))
        return ws

    async def _converse(self, session: Wire, node: Node) -> None:
        async with asyncio.TaskGroup() as group:
            session.begin(group)
            try:
                hello = await self._hello(session)
                if hello is not None:
                    async with self._welcoming:
                        await self._welcome(session, node, hello)
                    await self._listen(session, node)
            finally:
                session.end()

    async def _hello(self, session: Wire) -> NodeHello | None:
        messages = await session.read(HELLO_SECONDS)
        if messages is None:
            return None
        if len(messages) != 1 or not isinstance(messages[0], NodeHello):
            raise Broken(WSCloseCode.PROTOCOL_ERROR, "the first message is a hello")
        return messages[0]

    async def _welcome(self, session: Wire, node: Node, hello: NodeHello) -> None:
        now_ms = self._now_ms()
        earlier = self._queue.outlet(node.id)
        if earlier is not None:
            earlier.close("the node has begun another session")
            self._unseat(node.id, earlier)
        presence = Presence(
            node.account, hello.version, hello.capabilities, hello.credit, now_ms, now_ms, hello.images, hello.warm
        )
        if self.seats is not None:
            await self.seats.sit(node.id, presence)
        settled = await self._attempts.reconcile(node.id, hello.held)
        if not await self._store.node_seen(node.id, now_ms, hello.version, msgspec.json.encode(hello.capabilities)):
            raise Broken(WSCloseCode.POLICY_VIOLATION, "the node was removed")
        # Once more: another session may have come to its seat while this one awaited the store.
        earlier = self._queue.outlet(node.id)
        if earlier is not None:
            raise Broken(WSCloseCode.GOING_AWAY, "the node has begun another session")
        self._presence[node.id] = presence
        welcome = DispatcherHello(self._version, settled.keep, settled.abandon, self._limits.result_bytes, now_ms)
        session.send(welcome, *settled.then)
        self._matching.node_joined(node.id, hello.capabilities, hello.credit, hello.images, hello.warm)
        self._queue.seat(node.id, session)
        self._metrics.sessions_begun += 1
        self._feed.node(node.account, node.id)
        log.info(
            "session began", node=node.id, version=hello.version, keep=len(settled.keep), abandon=len(settled.abandon)
        )

    def _unseat(self, node_id: str, session: Outlet) -> None:
        """Offer a node no more through a session, unless a newer one has taken its place."""
        if self._queue.outlet(node_id) is session:
            presence = self._presence.pop(node_id, None)
            self._queue.unseat(node_id, session)
            if presence is not None:
                self._feed.node(presence.account, node_id)
            if self.seats is not None:
                self.seats.rise(node_id)

    async def _listen(self, session: Wire, node: Node) -> None:
        room = asyncio.Semaphore(UNDER_WAY)
        under_way: set[asyncio.Task[None]] = set()
        while (messages := await session.read(SILENCE_SECONDS)) is not None:
            presence = self._presence.get(node.id)
            if presence is None or self._queue.outlet(node.id) is not session:
                return
            presence.seen_ms = self._now_ms()
            for message in messages:
                if isinstance(message, NodeGoodbye):
                    # What it said before holds first: a task given back is not lost.
                    while under_way:
                        await asyncio.wait(set(under_way))
                    await self._goodbye(node, message)
                    return
                work = self._take(session, node, presence, message)
                if work is not None:
                    # Tasks start in the order of their making, and the store keeps the order of its
                    # callers: an accept is written before the outcome that follows it.
                    await room.acquire()
                    task = asyncio.create_task(self._finish(work, session, node, room))
                    for tasks in (self._work, under_way):
                        tasks.add(task)
                        task.add_done_callback(tasks.discard)
            self._queue.room_changed()  # once for all that the frame freed: the offers leave in one frame, too

    async def _finish(self, work: Awaitable[None], session: Wire, node: Node, room: asyncio.Semaphore) -> None:
        """See one message through. Where the store fails, the node repeats it in its next session."""
        try:
            await work
        except StoreUnavailable as error:
            log.warning("the store does not answer, session ends", node=node.id, error=str(error))
            session.close("the store does not answer", STORE_RETRY_SECONDS)
        except Unsound as error:
            log.warning("node is unsound, session ends", node=node.id, reason=str(error))
            session.close(str(error), STORE_RETRY_SECONDS)
        except Exception:
            log.exception("message failed, session ends", node=node.id)
            session.close("internal error", STORE_RETRY_SECONDS)
        finally:
            room.release()

    async def drained(self) -> None:
        """Return when everything that nodes said is settled."""
        while self._work:
            await asyncio.wait(set(self._work))

    def _take(self, session: Wire, node: Node, presence: Presence, message: NodeMessage) -> Awaitable[None] | None:
        """Take in one message; what is given back is to be awaited beside the reading."""
        match message:
            case Accept():
                self._credit(node, presence, message.credit)
                return self._attempts.accept(node.id, message)
            case Decline():
                self._credit(node, presence, message.credit)
                return self._attempts.decline(node.id, message)
            case GiveBack():
                self._credit(node, presence, message.credit)
                return self._attempts.give_back(node.id, message)
            case Outcome():
                if message.credit is not None:
                    self._credit(node, presence, message.credit)
                    self._attempts.freed(node.id, message.lease)
                return self._attempts.outcome(node.id, message)
            case NodeHeartbeat():
                self._heartbeat(session, node, presence, message)
            case CreditNotice():
                self._credit(node, presence, message.credit)
            case Progress():
                self._attempts.progress(node.id, message)
            case Output():
                self._attempts.output(node.id, message)
            case _:
                raise Broken(WSCloseCode.PROTOCOL_ERROR, "a hello comes once")
        return None

    def _credit(self, node: Node, presence: Presence, credit: Credit) -> None:
        presence.credit = credit
        self._matching.node_changed(node.id, credit=credit)
        self._feed.node(node.account, node.id)

    def _heartbeat(self, session: Wire, node: Node, presence: Presence, message: NodeHeartbeat) -> None:
        now = self._monotonic()
        for lease in message.leases:
            if not self._leases.renew(lease, node.id, now) and self._leases.of_task(lease.task) is not None:
                session.send(Abandon(lease, "stale"))  # the task has another holder
        presence.capabilities = message.capabilities
        presence.credit = message.credit
        presence.load = message.load
        if self.seats is not None and (presence.available, presence.reason) != (message.available, message.reason):
            self.seats.show_soon(node.id)
        presence.available = message.available
        presence.reason = message.reason
        presence.clock_offset = message.clock_offset
        if message.images is not None:
            presence.images = message.images
        if message.warm is not None:
            presence.warm = message.warm
        self._matching.node_changed(
            node.id,
            credit=message.credit,
            capabilities=message.capabilities,
            available=message.available,
            images=message.images,
            warm=message.warm,
        )
        session.send(DispatcherHeartbeat(message.sent, self._now_ms()))
        self._feed.node(node.account, node.id)

    async def _goodbye(self, node: Node, message: NodeGoodbye) -> None:
        log.info("node says goodbye", node=node.id, reason=message.reason)
        for holding in self._leases.of_node(node.id):
            self._leases.drop(holding.lease)
            await self._attempts.lost(holding, "the node left")

    async def keep_all_seen(self) -> None:
        """Write down when each connected node was last heard of; end the session of one that was removed."""
        left = list(self._presence.items())
        while left:
            some, left = left[:SEEN_TOGETHER], left[SEEN_TOGETHER:]
            # All at once, so that they share a commit.
            enabled = await asyncio.gather(
                *(
                    self._store.node_seen(
                        node_id, presence.seen_ms, presence.version, msgspec.json.encode(presence.capabilities)
                    )
                    for node_id, presence in some
                )
            )
            for (node_id, _), good in zip(some, enabled, strict=True):
                if not good:
                    await self.node_removed(node_id)

    def _now_ms(self) -> int:
        return int(self._wall() * 1000)


def _closing_words(reason: str) -> bytes:
    """Cut a reason to what a closing frame takes, between two characters."""
    return reason.encode()[:CLOSE_BYTES].decode(errors="ignore").encode()


def _first(group: BaseExceptionGroup[Broken]) -> Broken:
    """Give the first of what broke a session, however deep it lies."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    if not isinstance(found, Broken):
        raise found
    return found
