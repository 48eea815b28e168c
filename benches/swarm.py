"""Many nodes in one process, as a dispatcher sees them: real sessions, real offers, no containers.

A node does what an agent does for a task, without the engine: it keeps what it accepted and how it ended until that is
acknowledged, says so in its next hello, and comes back by the agent's own rule when its connection breaks. WebSockets
are spoken here directly, since what drives ten thousand of them must cost less than what is measured.

    python -m benches.swarm FILE HOST:PORT[,HOST:PORT…] ADDRESS SECONDS

FILE holds a node id and its credential a line; the nodes connect from ADDRESS, each to one of the dispatchers at first,
and to the next one when that is away; they run each task for SECONDS. Commands are read from standard input, a line
each, and answered with one line of JSON: ``open``, ``drop``, ``state``, ``ledger``.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

from agent.backoff import full_jitter
from agent.protocol import (
    HEARTBEAT_SECONDS,
    SILENCE_SECONDS,
    SUBPROTOCOL,
    Abandon,
    Accept,
    Begin,
    Capabilities,
    Credit,
    DispatcherGoodbye,
    DispatcherHello,
    DispatcherMessage,
    Held,
    Lease,
    Load,
    NodeHeartbeat,
    NodeHello,
    NodeMessage,
    Offer,
    Outcome,
    OutcomeAck,
    decode_from_dispatcher,
    encode,
)

SLOTS = 4
CAPABILITIES = Capabilities(SLOTS, 4096, 2.0, arch="x86_64")
IMAGES = [f"registry.example.org/team/function-{number}:latest" for number in range(5)]
OPENED_TOGETHER = 64
TICK_SECONDS = 0.02


class Ledger:
    """What the nodes of this process did.

    Attributes:
        ran: How often each task was begun.
        recorded: The tokens of each task's leases whose outcome was acknowledged as recorded.
    """

    def __init__(self) -> None:
        self.ran: Counter[str] = Counter()
        self.recorded: dict[str, set[str]] = {}


class SimulatedNode(asyncio.Protocol):
    """One node, through all its connections."""

    def __init__(
        self,
        node: tuple[str, str],
        addresses: Iterator[tuple[str, int]],
        *,
        source: str,
        run_seconds: float,
        ledger: Ledger,
    ) -> None:
        node_id, credential = node
        self._head = (
            f"GET /v1/node/{node_id}/session HTTP/1.1\r\nHost: dispatcher\r\n"
            f"Authorization: Bearer {credential}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
        ).encode()
        self._addresses = addresses
        self._source = source
        self._run_seconds = run_seconds
        self._ledger = ledger
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._upgraded = False
        self._heard = 0.0
        """When the dispatcher last said anything, by the loop's clock."""
        self._failures = 0
        self._rest = 0.0
        """The dispatcher asked to stay away for so many seconds."""
        self._offers_seen = 0
        self._held: dict[Lease, Outcome | None] = {}
        self._waiting: dict[Lease, bytes] = {}
        """Inputs of tasks that may not begin yet."""
        self.is_open = False

    async def connect(self) -> None:
        """Try once; what comes of it shows in `is_open`."""
        try:
            async with asyncio.timeout(30):
                await self._loop.create_connection(lambda: self, *next(self._addresses), local_addr=(self._source, 0))
        except (OSError, TimeoutError):
            self._again()

    def drop(self) -> None:
        """Lose the connection, as when the network breaks."""
        if self._transport is not None:
            self._transport.abort()

    def beat(self) -> None:
        """Say that it lives; a dispatcher that says nothing any more is given up."""
        if self._loop.time() - self._heard > SILENCE_SECONDS:
            self.drop()
            return
        leases = [lease for lease, outcome in self._held.items() if outcome is None]
        self._send(NodeHeartbeat(time.monotonic_ns(), leases, CAPABILITIES, self._credit(), Load(3.5, 2048, 0)))

    # the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the session."""
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._received, self._upgraded = transport, b"", False
        transport.write(self._head)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why does not matter
        """Come back as an agent does."""
        self._transport, self.is_open = None, False
        self._again()

    def data_received(self, data: bytes) -> None:
        """Take in what came: the end of the handshake, then frames."""
        self._received += data
        self._heard = self._loop.time()
        if not self._upgraded:
            head, found, rest = self._received.partition(b"\r\n\r\n")
            if not found:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self.drop()
                return
            self._upgraded, self._received, self._offers_seen = True, rest, 0
            held = [Held(lease, finished=outcome is not None) for lease, outcome in self._held.items()]
            self._send(NodeHello("0.1.0", CAPABILITIES, self._credit(), IMAGES, held=held))
        while (frame := self._next_frame()) is not None:
            opcode, content = frame
            if opcode == 0x2:
                for message in decode_from_dispatcher(content):
                    self._take(message)
            elif opcode == 0x8:
                self.drop()

    def _next_frame(self) -> tuple[int, bytes] | None:
        received = self._received
        if len(received) < 2:
            return None
        size, start = received[1] & 0x7F, 2
        if size > 125:
            start = 4 if size == 126 else 10
            size = int.from_bytes(received[2:start])
        if len(received) < start + size:
            return None
        self._received = received[start + size :]
        return received[0] & 0x0F, received[start : start + size]

    def _send(self, *messages: NodeMessage) -> None:
        if self._transport is None or not self._upgraded:
            return
        content = encode(messages)
        size = len(content)
        length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2)
        # The mask that RFC 6455 asks of a client may be all zeros, and then the content stays as it is.
        self._transport.write(b"\x82" + length + b"\0\0\0\0" + content)

    def _again(self) -> None:
        self._failures += 1
        pause = full_jitter(self._failures, random.random)
        if self._rest:
            pause, self._rest = self._rest + random.random() * max(1.0, self._rest / 4), 0.0
        self._loop.call_later(pause, lambda: self._loop.create_task(self.connect()))

    # the session

    def _take(self, message: DispatcherMessage) -> None:
        match message:
            case DispatcherHello():
                self._welcomed(message)
            case Offer():
                self._accept(message)
            case Begin(lease):
                self._begin(lease)
            case OutcomeAck(lease, recorded):
                self._held.pop(lease, None)
                if recorded:
                    self._ledger.recorded.setdefault(lease.task, set()).add(lease.token.hex())
            case Abandon(lease):
                self._held.pop(lease, None)
            case DispatcherGoodbye(_, retry_after):
                self._rest = retry_after

    def _welcomed(self, hello: DispatcherHello) -> None:
        self.is_open, self._failures = True, 0
        for lease in hello.abandon:
            self._held.pop(lease, None)
        for outcome in self._held.values():
            if outcome is not None:
                self._send(outcome)

    def _accept(self, offer: Offer) -> None:
        self._offers_seen = offer.number
        self._held[offer.lease] = None
        self._send(Accept(offer.lease, self._credit()))
        self._waiting[offer.lease] = offer.body or b""
        if not offer.hold:
            self._begin(offer.lease)

    def _begin(self, lease: Lease) -> None:
        body = self._waiting.pop(lease, None)
        if body is not None:
            self._ledger.ran[lease.task] += 1
            self._loop.call_later(self._run_seconds, self._end, lease, body)

    def _end(self, lease: Lease, body: bytes) -> None:
        if lease in self._held:
            outcome = Outcome(lease, "answered", 200, [], body, len(body), credit=self._credit(done=1))
            self._held[lease] = outcome
            self._send(outcome)

    def _credit(self, done: int = 0) -> Credit:
        free = SLOTS - sum(outcome is None for outcome in self._held.values()) + done
        return Credit(free, 4096, free, self._offers_seen)


class Swarm:
    """The nodes of this process."""

    def __init__(self, nodes: list[SimulatedNode], ledger: Ledger) -> None:
        self._nodes = nodes
        self._ledger = ledger

    async def beat(self) -> None:
        """Let each node say that it lives once in an interval, evenly over time."""
        begun, sent = time.monotonic(), 0
        while True:
            await asyncio.sleep(TICK_SECONDS)
            due = int((time.monotonic() - begun) / HEARTBEAT_SECONDS * len(self._nodes))
            for number in range(max(sent, due - len(self._nodes)), due):
                node = self._nodes[number % len(self._nodes)]
                if node.is_open:
                    node.beat()
            sent = due

    async def do(self, command: str) -> dict[str, object]:
        """Carry out a command."""
        if command == "open":
            for start in range(0, len(self._nodes), OPENED_TOGETHER):
                await asyncio.gather(*(node.connect() for node in self._nodes[start : start + OPENED_TOGETHER]))
        elif command == "drop":
            for node in self._nodes:
                node.drop()
        elif command == "ledger":
            return {
                "recorded": {task: sorted(tokens) for task, tokens in self._ledger.recorded.items()},
                "ran": self._ledger.ran,
            }
        return {
            "open": sum(node.is_open for node in self._nodes),
            "cpu": time.process_time(),
        }


async def main() -> None:
    """Do what standard input says, until it ends."""
    file, listed, source, run_seconds = sys.argv[1:]
    ledger = Ledger()
    addresses = [(host, int(port)) for host, _, port in (each.partition(":") for each in listed.split(","))]
    nodes = []
    for number, line in enumerate(Path(file).read_text().splitlines()):
        node_id, credential = line.split()
        known = islice(cycle(addresses), number % len(addresses), None)
        nodes.append(
            SimulatedNode((node_id, credential), known, source=source, run_seconds=float(run_seconds), ledger=ledger)
        )
    swarm = Swarm(nodes, ledger)
    beating = asyncio.create_task(swarm.beat())
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while command := await commands.readline():
        print(json.dumps(await swarm.do(command.decode().strip())), flush=True)
    beating.cancel()


if __name__ == "__main__":
    asyncio.run(main())
