"""Load on several dispatchers: nodes that move between them by themselves, callers that do not give up, and an audit.

A node does what an agent does for a task, without the engine: it keeps what it accepted and how it ended until the
dispatcher has acknowledged it, says so in its next hello, and counts each task that it ran.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp
import msgspec

from agent.protocol import (
    SUBPROTOCOL,
    Abandon,
    Accept,
    Begin,
    Capabilities,
    Credit,
    DispatcherHello,
    DispatcherMessage,
    Held,
    Lease,
    Load,
    NodeHeartbeat,
    NodeHello,
    Offer,
    Outcome,
    OutcomeAck,
    decode_from_dispatcher,
    encode,
)

SLOTS = 8
RUN_SECONDS = 0.05
AWAY_SECONDS = 60.0
"""Callers go on asking for so long."""

T = TypeVar("T")


@dataclass
class Ledger:
    """What was promised and what was done.

    Attributes:
        created: Ids that callers were given, with the text that each must come back with.
        ran: How often each task was run.
        recorded: The leases of each task whose outcome was acknowledged as recorded.
    """

    created: dict[str, bytes] = field(default_factory=dict)
    ran: Counter[str] = field(default_factory=Counter)
    recorded: dict[str, set[bytes]] = field(default_factory=dict)
    ended: int = 0


class Worker:
    """One node."""

    def __init__(
        self, urls: Sequence[str], node_id: str, credential: str, ledger: Ledger, http: aiohttp.ClientSession
    ) -> None:
        self._urls = list(urls)
        self._path = f"/v1/node/{node_id}/session"
        self._headers = {"Authorization": credential}
        self._ledger = ledger
        self._http = http
        self._held: dict[Lease, Outcome | None] = {}
        """Tasks of which the dispatcher has not acknowledged the end, and that end once it is there."""
        self._to_begin: dict[Lease, bytes] = {}
        self._begun: set[Lease] = set()
        self._offers_seen = 0
        self._ws: aiohttp.ClientWebSocketResponse | None = None
        self._work: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Hold sessions, until cancelled."""
        for url in itertools.cycle(self._urls):
            try:
                async with self._http.ws_connect(
                    url + self._path, protocols=(SUBPROTOCOL,), headers=self._headers, heartbeat=None
                ) as ws:
                    await self._converse(ws)
            except (aiohttp.ClientError, OSError, TimeoutError):
                pass  # the next one is asked
            finally:
                self._ws = None
            await asyncio.sleep(random.uniform(0.05, 0.3))  # the pause of a node that was cut off

    async def _converse(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self._offers_seen = 0
        held = [Held(lease, finished=outcome is not None) for lease, outcome in self._held.items()]
        await ws.send_bytes(encode([NodeHello("0.1.0", Capabilities(SLOTS, 8192, 1.0), self._credit(), held=held)]))
        beating = asyncio.create_task(self._beat(ws))
        try:
            async for message in ws:
                if message.type is not aiohttp.WSMsgType.BINARY:
                    continue
                for one in decode_from_dispatcher(message.data):
                    await self._take(ws, one)
        finally:
            beating.cancel()

    async def _beat(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            await asyncio.sleep(2)  # the interval of a heartbeat
            leases = [lease for lease, outcome in self._held.items() if outcome is None]
            beat = NodeHeartbeat(0, leases, Capabilities(SLOTS, 8192, 1.0), self._credit(), Load())
            await ws.send_bytes(encode([beat]))

    async def _take(self, ws: aiohttp.ClientWebSocketResponse, message: DispatcherMessage) -> None:
        match message:
            case DispatcherHello(abandon=abandon):
                self._ws = ws
                for lease in abandon:
                    self._held.pop(lease, None)
                for outcome in [outcome for outcome in self._held.values() if outcome is not None]:
                    await ws.send_bytes(encode([outcome]))
            case Offer():
                await self._accept(ws, message)
            case Begin(lease) if lease in self._to_begin:
                self._begin(lease, self._to_begin.pop(lease))
            case OutcomeAck(lease, recorded):
                self._held.pop(lease, None)
                if recorded:
                    self._ledger.recorded.setdefault(lease.task, set()).add(lease.token)
            case Abandon(lease):
                self._held.pop(lease, None)

    async def _accept(self, ws: aiohttp.ClientWebSocketResponse, offer: Offer) -> None:
        self._offers_seen = offer.number
        self._held[offer.lease] = None
        await ws.send_bytes(encode([Accept(offer.lease, self._credit())]))
        if offer.hold:
            self._to_begin[offer.lease] = offer.body or b""
        else:
            self._begin(offer.lease, offer.body or b"")

    def _begin(self, lease: Lease, body: bytes) -> None:
        if lease not in self._begun:
            self._begun.add(lease)
            task = asyncio.create_task(self._work_on(lease, body))
            self._work.add(task)
            task.add_done_callback(self._work.discard)

    async def _work_on(self, lease: Lease, body: bytes) -> None:
        self._ledger.ran[lease.task] += 1
        await asyncio.sleep(RUN_SECONDS)  # the function's own time
        if lease not in self._held:
            return
        self._held[lease] = outcome = Outcome(lease, "answered", 200, [], body, len(body), credit=self._credit())
        if self._ws is not None and not self._ws.closed:
            try:
                await self._ws.send_bytes(encode([outcome]))
            except (aiohttp.ClientError, OSError):
                return  # it is said again after the next hello

    def _credit(self) -> Credit:
        running = sum(outcome is None for outcome in self._held.values())
        return Credit(SLOTS - running, 8192, SLOTS - running, self._offers_seen)


class Caller:
    """Creates tasks at whichever dispatcher answers, and reads their ends at whichever answers."""

    def __init__(self, urls: Sequence[str], token: str, ledger: Ledger, http: aiohttp.ClientSession) -> None:
        self._urls = itertools.cycle(urls)
        self._headers = {"Authorization": token}
        self._ledger = ledger
        self._http = http
        self._numbers = itertools.count(1)

    async def ask(self, method: str, path: str, good: Callable[[int, Any], bool], **request: Any) -> tuple[int, bytes]:
        """Ask again, another one, until the answer is good."""
        headers = self._headers | request.pop("headers", {})
        async with asyncio.timeout(AWAY_SECONDS):
            while True:
                try:
                    async with self._http.request(
                        method, next(self._urls) + path, headers=headers, timeout=aiohttp.ClientTimeout(20), **request
                    ) as answer:
                        content = await answer.read()
                        if good(answer.status, answer.headers):
                            return answer.status, content
                except (aiohttp.ClientError, OSError, TimeoutError):
                    pass
                await asyncio.sleep(0.05)  # the pause of a caller whose dispatcher is away

    async def run(self, function: str) -> None:
        """Create tasks and await their ends, until cancelled."""
        while True:
            number = next(self._numbers)
            body = b'"%d-%d"' % (id(self), number)
            _, content = await self.ask(
                *("POST", f"/v1/task/{function}", lambda status, _: status == 201),
                data=body,
                headers={"Idempotency-Key": f"{id(self)}-{number}"},
            )
            task = msgspec.json.decode(content)["id"]
            self._ledger.created[task] = body
            await self.end_of(task)
            self._ledger.ended += 1

    async def end_of(self, task: str) -> tuple[int, bytes]:
        """Wait for the end of a task."""
        return await self.ask(
            "GET",
            f"/v1/task/{task}/result",
            lambda _, headers: "X-Task-State" in headers,
            headers={"Prefer": "wait=5"},
        )


@dataclass
class Running:
    """Load that goes on."""

    ledger: Ledger
    caller: Caller
    callers: list[asyncio.Task[None]]

    async def until(self, more: int, seconds: float = 60.0) -> None:
        """Wait until so many more tasks have ended."""
        target = self.ledger.ended + more
        async with asyncio.timeout(seconds):
            while self.ledger.ended < target:
                for caller in self.callers:
                    if caller.done():
                        caller.result()
                await asyncio.sleep(0.02)

    async def audit(self) -> None:
        """Stop creating, await every end, and hold what was done against what was promised; print the figures."""
        for caller in self.callers:
            caller.cancel()
        await asyncio.wait(self.callers)
        lost = 0
        created = list(self.ledger.created.items())
        for some in (created[start : start + 50] for start in range(0, len(created), 50)):
            ends = await asyncio.gather(*(self.caller.end_of(task) for task, _ in some))
            lost += sum(end != (200, body) for end, (_, body) in zip(ends, some, strict=True))
        doubled = sum(len(tokens) > 1 for tokens in self.ledger.recorded.values())
        again = sum(times - 1 for times in self.ledger.ran.values())
        figures = f"{len(self.ledger.created)} tasks, lost {lost}, doubled {doubled}, run again {again}"
        print(figures)  # noqa: T201 - shown with -s, and where it fails
        assert (lost, doubled) == (0, 0)


@asynccontextmanager
async def load(
    urls: Sequence[str], token: str, function: str, nodes: Sequence[tuple[str, str]], callers: int = 16
) -> AsyncIterator[Running]:
    """Let nodes work and callers call while the context lasts."""
    ledger = Ledger()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        workers = [
            asyncio.create_task(Worker(random.sample(urls, len(urls)), *node, ledger, http).run()) for node in nodes
        ]
        caller = Caller(urls, token, ledger, http)
        calling = [asyncio.create_task(Caller(urls, token, ledger, http).run(function)) for _ in range(callers)]
        try:
            yield Running(ledger, caller, calling)
        finally:
            for task in (*workers, *calling):
                task.cancel()
            await asyncio.wait([*workers, *calling])


async def each(count: int, make: Callable[[], Awaitable[T]]) -> list[T]:
    """Make so many, one after the other."""
    return [await make() for _ in range(count)]
