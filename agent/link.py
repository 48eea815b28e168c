"""The way to the dispatcher: connect, hold a session, come back after it.

A node never gives up. It tries its dispatchers in turn, waits with full jitter in between, and where
it is refused it says so and goes on trying: a clock that is wrong at boot, or a node that its owner
removed and restores, must not need anybody to come by, nor a node that is restored at once be long away.
"""

from __future__ import annotations

import asyncio
import random as _random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import aiohttp
import structlog

from agent.backoff import full_jitter, retry_after
from agent.metrics import Metrics
from agent.protocol import FRAME_LIMIT, HEARTBEAT_SECONDS, SUBPROTOCOL, NodeGoodbye, NodeMessage
from agent.proxies import way_to
from agent.round_trip import RoundTrips
from agent.session import Node, Session
from agent.vitals import Vitals

CONNECT_SECONDS = 15.0
LEAVE_SECONDS = 5.0
"""Time to send what waits, and the goodbye."""

_REMOVED = 403
_REFUSALS = {
    401: "the dispatcher does not know this node's credential; `fernd agent join` gets a new one",
    _REMOVED: "this node was removed; its owner can restore it, or it joins again with `fernd agent join`",
    404: "the dispatcher does not know this node; it joins with `fernd agent join`",
}


@dataclass(frozen=True, slots=True)
class _Ended:
    """How a try to hold a session ended."""

    reason: str
    lived: float = 0.0
    retry_after: float = 0.0


class Link:
    """The node's line to its dispatchers.

    Args:
        urls: Base addresses, at least one.
        authorization: Value of the header that proves who this node is.
        node: What the sessions speak for.
        http: Makes the connections.
        vitals: Hears of each try, each frame that came and each heartbeat that left.
        metrics: Counts the tries.
    """

    def __init__(
        self,
        urls: Sequence[str],
        node_id: str,
        authorization: str,
        node: Node,
        http: aiohttp.ClientSession,
        *,
        vitals: Vitals,
        metrics: Metrics,
        wall: Callable[[], float] = time.time,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._urls = [url.rstrip("/") for url in urls]
        self._node_id = node_id
        self._authorization = authorization
        self._node = node
        self._http = http
        self._vitals = vitals
        self._metrics = metrics
        self._wall = wall
        self._monotonic_ns = monotonic_ns
        self._random = random
        self._turn = 0
        self._session: Session | None = None
        self._heard_ns: int | None = None
        self._leaving = False
        self._said = ""
        self._log = structlog.get_logger()
        self.round_trips = RoundTrips()

    @property
    def is_open(self) -> bool:
        """There is a session, past both hellos."""
        return self._session is not None and self._session.is_open

    @property
    def url(self) -> str:
        """Base address of the dispatcher in use, or to be tried next."""
        return self._urls[self._turn % len(self._urls)]

    @property
    def silence(self) -> float | None:
        """Seconds since the dispatcher was heard, in this session or an earlier one; None if it never was."""
        heard_ns = self._session.heard_ns if self._session is not None else None
        heard_ns = heard_ns if heard_ns is not None else self._heard_ns
        return (self._monotonic_ns() - heard_ns) / 1e9 if heard_ns is not None else None

    def send(self, message: NodeMessage) -> bool:
        """Let a message leave with the next frame; False, and nothing happens, without a session."""
        if self._session is None or not self._session.is_open:
            return False
        self._session.send(message)
        return True

    def beat_now(self) -> None:
        """Send a heartbeat at once, if there is a session."""
        if self._session is not None:
            self._session.beat_now()

    async def leave(self, reason: str, *, goodbye: bool) -> None:
        """End the session and open no other; what waits is sent first.

        Args:
            goodbye: The node holds nothing any more and may say so.
        """
        self._leaving = True
        session = self._session
        if session is None or not session.is_open:
            return
        if goodbye:
            session.send(NodeGoodbye(reason))
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await session.leave()
        except TimeoutError:
            self._log.warning("the dispatcher does not take what is left to say")

    async def run(self) -> None:
        """Hold a session, again and again, until `leave`."""
        try:
            await self._run()
        finally:
            self._vitals.rest("link")

    async def _run(self) -> None:
        failures = 0
        while not self._leaving:
            self._vitals.beat("link")
            self._metrics.sessions_tried += 1
            ended = await self._hold_session()
            if self._leaving:
                return
            # A session counts as good when it outlived a heartbeat; a dispatcher that says hello and
            # fails at once is not asked twice a second.
            lived = ended.lived > HEARTBEAT_SECONDS
            failures = 1 if lived else failures + 1
            # Who says goodbye for a while stops, most of the time: another one is asked first.
            if not lived or ended.retry_after:
                self._turn += 1
            if lived:
                self._said = ""
            wait = full_jitter(failures, self._random)
            if ended.retry_after:
                # Spread by a second and more, since all nodes were told the same.
                wait = ended.retry_after + self._random() * max(1.0, ended.retry_after / 4)
            self._report(ended, wait)
            self._vitals.beat("link", due=wait + CONNECT_SECONDS)
            await asyncio.sleep(wait)

    async def _hold_session(self) -> _Ended:
        url = f"{self.url}/v1/node/{self._node_id}/session"
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                socket = await self._http.ws_connect(
                    url,
                    protocols=(SUBPROTOCOL,),
                    headers={"Authorization": self._authorization},
                    max_msg_size=FRAME_LIMIT,
                    compress=0,
                    **way_to(url),
                    timeout=aiohttp.ClientWSTimeout(ws_close=LEAVE_SECONDS),
                )
        except aiohttp.WSServerHandshakeError as error:
            said = _REFUSALS.get(error.status, f"the dispatcher answered {error.status}")
            wait = retry_after(error.headers.get("Retry-After") if error.headers else None)
            if error.status == _REMOVED:
                self._node.removed()
            return _Ended(said, retry_after=wait)
        except TimeoutError:
            return _Ended(f"no connection within {CONNECT_SECONDS:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return _Ended(f"no connection: {error}")
        if socket.protocol != SUBPROTOCOL:
            await socket.close(code=aiohttp.WSCloseCode.PROTOCOL_ERROR)
            return _Ended(f"the dispatcher does not speak {SUBPROTOCOL}")
        self._session = Session(
            socket, self._node, self.round_trips, self._vitals, wall=self._wall, monotonic_ns=self._monotonic_ns
        )
        try:
            over = await self._session.run()
        finally:
            self._heard_ns = self._session.heard_ns or self._heard_ns
            self._session = None
        return _Ended(over.reason, over.lived, over.retry_after)

    def _report(self, ended: _Ended, wait: float) -> None:
        """Log why there is no session: once, not each time that the same is found again."""
        write = self._log.debug if ended.reason == self._said else self._log.warning
        write("no session", url=self.url, reason=ended.reason, retry_in=round(wait, 1))
        self._said = ended.reason
