"""A real node, with its journal and its link, whose functions and engine a test plays."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.calls import Calls
from agent.capabilities import Machine
from agent.config import (
    AccountsConfig,
    AgentConfig,
    AvailabilityConfig,
    CapacityConfig,
    ContainersConfig,
    JournalConfig,
    StopConfig,
)
from agent.containers.engine import EngineUnavailable
from agent.containers.engine_values import failure_of
from agent.invocation import GaveBack, Ran, Report, StopReason
from agent.journal import Journal
from agent.node import Node, Phase
from agent.protocol import (
    Lease,
    NodeHeartbeat,
    Offer,
    Outcome,
    Revision,
)
from agent.status import CanaryReport, Orphan
from tests.contract.dispatcher_side import CREDENTIAL, DEADLINE, NODE_ID, Dispatcher, Session

REVISION = Revision("f" * 24, 1, "hello", cpu_count=0.5, mem_size=100)


def lease(number: int = 1) -> Lease:
    return Lease(f"{number:024x}", 1, os.urandom(16))


def large(of: Lease, body: bytes, file: Path) -> Ran:
    """An answer whose body is in a file."""
    file.write_bytes(body)
    sha256 = hashlib.sha256(body).hexdigest()
    return Ran(Outcome(of, "answered", 200, body=None, body_size=len(body), body_sha256=sha256), file)


def answered(of: Lease, body: bytes = b"hello") -> Ran:
    return Ran(Outcome(of, "answered", 200, [("Content-Type", "text/plain")], body, len(body)), None)


class Function:
    """The work of one attempt; the test says how it ends."""

    def __init__(self, offer: Offer, body: bytes | Path, report: Report, *, readopted: bool = False) -> None:
        self.offer = offer
        self.readopted = readopted
        self.body = body
        self.input = body if isinstance(body, bytes) else body.read_bytes()
        self.report = report
        self.stopped: str | None = None
        self.obeys = True
        self.started = True
        self.seconds_left: float | None = None
        self._end: asyncio.Future[Ran | GaveBack] = asyncio.get_running_loop().create_future()

    def end(self, end: Ran | GaveBack | Exception) -> None:
        if isinstance(end, Exception):
            self._end.set_exception(end)
        else:
            self._end.set_result(end)

    async def run(self) -> Ran | GaveBack:
        return await self._end

    def time_left(self) -> float | None:
        return self.seconds_left

    def stop(self, reason: StopReason) -> None:
        self.stopped = reason
        if self.obeys and not self._end.done():
            self._end.set_result(GaveBack(reason, started=self.started))


class Containers:
    """An engine without containers."""

    def __init__(self) -> None:
        self.arch = "x86_64"
        self.internet = False
        self.runtimes = ["runc"]
        self.present = ["hello:latest"]
        self.problem: str | None = None
        self.canaries: list[CanaryReport] = []
        """What the next canaries meet; every other comes back."""
        self.removed = False
        self.jobs: set[str] = set()
        """Tasks whose container an earlier run of the agent left."""
        self.orphans: list[Orphan] = []
        self.in_doubt = asyncio.Event()
        self.engine_calls = Calls(failure_of, "refused", "away")
        self.kept_ready: list[str] = []
        self.wishes: list[str] = []
        """What the owner's rules made of the containers, each change once."""

    async def start(self) -> None:
        await self.ask()

    async def ask(self) -> None:
        if self.problem is not None:
            raise EngineUnavailable(self.problem)

    async def stop(self) -> None:
        self.removed = True

    def images(self) -> list[str]:
        return self.present

    def warm(self) -> list[str]:
        return []

    def keep_ready(self, revisions: Sequence[Revision]) -> None:
        self.kept_ready = [revision.key for revision in revisions]

    async def canary(self) -> CanaryReport:
        return self.canaries.pop(0) if self.canaries else CanaryReport("namespace")

    def rest(self, *, drop_idle: bool) -> None:
        self._wish("rest without idle ones" if drop_idle else "rest")

    async def freeze(self) -> None:
        await self.ask()
        self._wish("frozen")

    async def thaw(self) -> None:
        await self.ask()
        self._wish("thawed")

    def _wish(self, wish: str) -> None:
        if self.wishes[-1:] != [wish]:
            self.wishes.append(wish)

    def cpu_seconds(self) -> dict[str, float]:
        return {}

    async def can_run_privileged(self) -> bool:
        return False

    async def resync(self) -> None:
        await self.ask()

    def readopt(self, offer: Offer) -> bool:
        return offer.lease.task in self.jobs

    async def gc(self, *, dry_run: bool) -> list[Orphan]:
        await self.ask()
        found = list(self.orphans)
        if not dry_run:
            self.orphans.clear()
        return found


class Running:
    """A node that runs, and what it was given to do."""

    def __init__(
        self,
        directory: Path,
        urls: list[str],
        containers: Containers,
        *,
        grace: float = 5.0,
        availability: AvailabilityConfig | None = None,
        containers_config: ContainersConfig | None = None,
        accounts: AccountsConfig | None = None,
        journal: JournalConfig | None = None,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.containers = containers
        self.functions: asyncio.Queue[Function] = asyncio.Queue()
        config = AgentConfig(
            capacity=CapacityConfig(cpu=2, memory=512, slots=3),
            journal=journal or JournalConfig(),
            containers=containers_config or ContainersConfig(),
            accounts=accounts or AccountsConfig(),
            availability=availability or AvailabilityConfig(),
            stop=StopConfig(grace_period=grace),
        )
        self.node = Node(
            config,
            directory,
            node_id=NODE_ID,
            credential=CREDENTIAL,
            dispatchers=urls,
            machine=Machine(4, 4096),
            host=containers,
            ask_engine=containers.ask,
            begin=self._begin,
            wall=wall,
            monotonic=monotonic,
            random=lambda: 0.0,
        )
        self.task = asyncio.create_task(self.node.run())

    def _begin(self, offer: Offer, body: bytes | Path, report: Report, result_limit: int, readopt: bool) -> Function:
        function = Function(offer, body, report, readopted=readopt)
        self.functions.put_nowait(function)
        return function

    async def function(self) -> Function:
        async with asyncio.timeout(DEADLINE):
            return await self.functions.get()

    def phase(self) -> Phase:
        return self.node.phase

    async def ended(self) -> None:
        async with asyncio.timeout(DEADLINE):
            await self.task


StartNode = Callable[..., Running]


async def left_in_journal(directory: Path) -> int:
    journal = Journal(directory)
    kept = await journal.open()
    await journal.close()
    return len(kept)


async def ready(dispatcher: Dispatcher) -> Session:
    """Give the session of a node that takes work."""
    session = await dispatcher.welcomed()
    if not session.hello.credit.slots:
        await session.expect(NodeHeartbeat, lambda heartbeat: heartbeat.available)
    return session
