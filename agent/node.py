"""The supervisor of the node: what runs, in which phase, and how it ends.

    STARTING ──> READY ──> DRAINING ──> STOPPING ──> STOPPED

Control loops live in one TaskGroup; one that fails unexpectedly ends the process, for whoever
supervises it to start it again. Attempts live outside of it, so that one's failure touches no other.
"""

from __future__ import annotations

import asyncio
import random as _random
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import aiohttp
import msgspec
import psutil
import structlog

from agent import __version__
from agent.admission import Permits, capacity
from agent.assignments import Assignments
from agent.attempt import Work
from agent.availability import Availability
from agent.bodies import Bodies
from agent.capabilities import MIB, Machine
from agent.config import AgentConfig
from agent.engine_watch import EngineWatch, Host
from agent.invocation import Report
from agent.journal import Journal, JournalError
from agent.link import CONNECT_SECONDS, Link
from agent.protocol import (
    Capabilities,
    CreditNotice,
    DispatcherHello,
    DispatcherMessage,
    Load,
    NodeHeartbeat,
    NodeHello,
    Offer,
)

LOOK_SECONDS = 5.0
"""Between two looks at the journal, and at what is overdue."""

ABORT_SECONDS = 10.0
"""Aborted work gets so long to end, beyond `containers.stop_grace`."""

Begin: TypeAlias = Callable[[Offer, bytes | Path, Report, int], Work]
"""Makes the work of an offer: its input, who hears how far it is, and the bytes that its answer may have."""


class Phase(StrEnum):
    """Where the node is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Node:
    """A node, from its start to its end.

    Args:
        data_dir: Where the journal lies; must exist.
        dispatchers: Base addresses, at least one.
        ask_engine: Asks the engine anything; raises `EngineUnavailable` where it does not answer.
        begin: Makes the work of an offer.
    """

    def __init__(
        self,
        config: AgentConfig,
        data_dir: Path,
        *,
        node_id: str,
        credential: str,
        dispatchers: list[str],
        machine: Machine,
        host: Host,
        ask_engine: Callable[[], Awaitable[object]],
        begin: Begin,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self.phase = Phase.STARTING
        self._config = config
        self._node_id = node_id
        self._authorization = f"Bearer {credential}"
        self._dispatchers = dispatchers
        self._host = host
        self._begin = begin
        self._wall = wall
        self._monotonic = monotonic
        self._random = random
        self._log = structlog.get_logger()

        usable = capacity(config.capacity, machine.cpu_count, machine.mem_size)
        self._permits = Permits(usable)
        self._capabilities = Capabilities(
            cpu_count=min(machine.cpu_count, usable.cpus), mem_size=min(machine.mem_size, usable.memory)
        )
        self._link: Link | None = None
        self._assignments: Assignments | None = None
        self._availability = Availability({"engine": "the engine is not found yet"}, self._availability_changed)
        self._engine = EngineWatch(host, ask_engine, self._availability, random)
        self._journal = Journal(data_dir)
        self._result_limit = 0
        self._told: tuple[list[str], list[str]] = ([], [])
        """Images and warm revisions that the dispatcher knows of."""
        self._drain_asked = asyncio.Event()
        self._abort_asked = asyncio.Event()

    def stop(self) -> None:
        """Drain and end; asked a second time: abort and end."""
        if self._drain_asked.is_set():
            self._abort_asked.set()
        self._drain_asked.set()

    async def run(self) -> None:
        """Be a node until `stop`.

        Raises:
            JournalError: The journal cannot be used.
            ExceptionGroup: A control loop failed.
        """
        structlog.contextvars.bind_contextvars(node=self._node_id)
        self._log.info("node starts", version=__version__, dispatchers=self._dispatchers)
        kept = await self._journal.open()
        # No total: it would count for a session too. Everything else says its own.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as http:
            try:
                self._link, self._assignments = self._make_parts(http)
                self._assignments.restore(kept)
                await self._run_loops(self._link, self._assignments)
            finally:
                await self._end()

    def _make_parts(self, http: aiohttp.ClientSession) -> tuple[Link, Assignments]:
        link = Link(
            self._dispatchers, self._node_id, self._authorization, self, http, wall=self._wall, random=self._random
        )
        bodies = Bodies(http, lambda: link.url, self._node_id, self._authorization, random=self._random)
        assignments = Assignments(
            self._journal,
            bodies,
            self._permits,
            self._availability,
            capabilities=self._capabilities_now,
            privileged_images=self._config.containers.privileged_images,
            begin=lambda offer, body, report: self._begin(offer, body, report, self._result_limit),
            send=link.send,
            gave_back=self._engine.attempt_given_back,
            monotonic=self._monotonic,
        )
        return link, assignments

    # Control loops

    async def _run_loops(self, link: Link, assignments: Assignments) -> None:
        """Run all control loops until the node has drained, or one of them fails."""
        running: list[asyncio.Task[None]] = []
        loops: dict[str, Coroutine[Any, Any, None]] = {
            "stop": self._stop_when_asked(link, assignments, running),
            "link": link.run(),
            "engine": self._engine.run(found=self._engine_found),
            "journal": self._watch_journal(),
            "overdue": self._watch_overdue(link, assignments),
        }
        async with asyncio.TaskGroup() as group:
            for name, loop in loops.items():
                running.append(group.create_task(self._loop(name, loop), name=name))

    async def _loop(self, name: str, loop: Coroutine[Any, Any, None]) -> None:
        try:
            await loop
        except Exception:
            self._log.exception("control loop failed, the node ends", loop=name)
            raise

    def _engine_found(self) -> None:
        if self.phase is Phase.STARTING:
            self.phase = Phase.READY
        self._log.info("node is ready", capabilities=self._capabilities_now(), free=self._permits.free)

    async def _watch_journal(self) -> NoReturn:
        """Take no work while the journal cannot be written, and find out when it can be again."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self._journal.failure:
                self._availability.block("journal", self._journal.failure)
                with suppress(JournalError):
                    await self._journal.probe()
            if not self._journal.failure:
                self._availability.clear("journal")

    async def _watch_overdue(self, link: Link, assignments: Assignments) -> NoReturn:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if link.is_open:
                assignments.look_for_overdue()

    # Stopping

    async def _stop_when_asked(self, link: Link, assignments: Assignments, loops: list[asyncio.Task[None]]) -> None:
        """Drain when asked, and end the other control loops."""
        await self._drain_asked.wait()
        await self._drain(link, assignments)
        for loop in loops:
            if loop is not asyncio.current_task():
                loop.cancel()

    async def _drain(self, link: Link, assignments: Assignments) -> None:
        """Finish what runs and deliver it, within the grace period; then say goodbye."""
        self.phase = Phase.DRAINING
        grace = self._config.stop.grace_period
        self._log.info("node drains", running=assignments.running, grace_period=grace)
        self._availability.block("draining", "draining")
        assignments.drain()
        if await self._in_time(assignments.until_empty(), grace):
            await link.leave("drained", goodbye=True)
            return
        await self._abort(assignments)
        # What was given back, and outcomes that came in time, leave with the session's last frames. Without
        # a goodbye, which would say that nothing is held, if the dispatcher has not acknowledged them all.
        await link.leave("aborted", goodbye=not len(assignments))

    async def _abort(self, assignments: Assignments) -> None:
        self._log.warning("node aborts what runs", running=assignments.running)
        assignments.abort()
        limit = self._config.containers.stop_grace + ABORT_SECONDS
        try:
            async with asyncio.timeout(limit):
                await assignments.until_idle()
        except TimeoutError:
            self._log.error("work did not end when it was told to", running=assignments.running)

    async def _in_time(self, work: Coroutine[Any, Any, None], seconds: float) -> bool:
        """Say whether work was done before its time was over and before an abort was asked for."""
        tasks = [asyncio.create_task(work), asyncio.create_task(self._abort_asked.wait())]
        try:
            await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            return tasks[0].done()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _end(self) -> None:
        """Leave nothing behind: no task, no container, no open file."""
        self.phase = Phase.STOPPING
        self._availability.block("draining", "stopping")
        if self._assignments is not None:
            await self._assignments.join()
        await self._engine.end()
        await self._journal.close()
        self.phase = Phase.STOPPED
        self._log.info("node stopped")

    # What sessions ask

    def hello(self) -> NodeHello:
        """Say what this node is, and what it holds."""
        held = self._parts.session_begins()
        self._told = (list(self._host.images()), list(self._host.warm()))
        return NodeHello(__version__, self._capabilities_now(), self._parts.credit(), *self._told, held)

    def heartbeat(self, sent: int) -> NodeHeartbeat:
        """Say how this node is; images and warm revisions only where they changed."""
        images, warm = list(self._host.images()), list(self._host.warm())
        known_images, known_warm = self._told
        self._told = (images, warm)
        return NodeHeartbeat(
            sent=sent,
            leases=self._parts.leases(),
            capabilities=self._capabilities_now(),
            credit=self._parts.credit(),
            load=Load(psutil.cpu_percent(), psutil.virtual_memory().available // MIB, self._parts.running),
            available=self._availability.available,
            reason=self._availability.reason,
            images=images if images != known_images else None,
            warm=warm if warm != known_warm else None,
        )

    def opened(self, hello: DispatcherHello) -> None:
        """Go by the dispatcher's hello."""
        self._result_limit = hello.result_limit
        self._log.info("session began", dispatcher=hello.version, keep=len(hello.keep), abandon=len(hello.abandon))
        self._parts.session_opened(hello)

    def received(self, message: DispatcherMessage) -> None:
        """Take a message that concerns work."""
        self._parts.received(message)

    @property
    def _parts(self) -> Assignments:
        assert self._assignments is not None  # noqa: S101 - sessions begin after `_make_parts`
        return self._assignments

    def _capabilities_now(self) -> Capabilities:
        latency = self._link.round_trips.median_ms if self._link is not None else None
        return msgspec.structs.replace(self._engine.describe(self._capabilities), network_latency=latency)

    def _availability_changed(self) -> None:
        if self._link is not None and self._assignments is not None:
            self._link.send(CreditNotice(self._assignments.credit()))
            self._link.beat_now()
