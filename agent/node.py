"""The supervisor of the node: what runs, in which phase, and how it ends.

    STARTING ──> READY ──> DRAINING ──> STOPPING ──> STOPPED

Control loops live in one TaskGroup; one that fails unexpectedly ends the process, for whoever
supervises it to start it again. Attempts live outside of it, so that one's failure touches no other.
"""

from __future__ import annotations

import asyncio
import random as _random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import aiohttp
import msgspec
import psutil
import structlog

from agent import __version__, heap
from agent.admission import Permits, account_share, capacity
from agent.assignments import Assignments, NothingToAbort
from agent.availability import Availability
from agent.bodies import Bodies
from agent.capabilities import MIB, Machine
from agent.config import AgentConfig, AvailabilityConfig
from agent.engine_watch import REMOVAL_SECONDS, EngineWatch, Host
from agent.exposition import render
from agent.invocation import Report
from agent.journal import Journal, Kept
from agent.journal_watch import JournalWatch
from agent.link import CONNECT_SECONDS, Link
from agent.metrics import Metrics, families
from agent.owner.watch import OwnerWatch
from agent.protocol import (
    Capabilities,
    CreditNotice,
    DispatcherHello,
    DispatcherMessage,
    Load,
    NodeHeartbeat,
    NodeHello,
    Offer,
    Prewarm,
    Revision,
)
from agent.shutdown import Shutdown
from agent.status import AttemptStatus, CanaryReport, NodeStatus, Orphan, PermitStatus, SpoolStatus
from agent.vitals import Vitals
from agent.workplace import Work

LOOK_SECONDS = 5.0

GIVE_BACK_SECONDS = 10.0
"""So often memory that work needed is given back, while there is work."""
"""Between two looks at what is overdue."""

Begin: TypeAlias = Callable[[Offer, bytes | Path, Report, int, bool], Work]
"""Makes the work of an offer: its input, who hears how far it is, the bytes that its answer may have, and whether
the container of an earlier run of the agent works for it already."""


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
        vitals: Where the control loops say that they make progress.
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
        vitals: Vitals | None = None,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self.phase = Phase.STARTING
        self.vitals = vitals or Vitals(monotonic)
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
        self._permits = Permits(usable, account_share(config.accounts, usable))
        self._metrics = Metrics()
        self._capabilities = Capabilities(
            cpu_count=min(machine.cpu_count, usable.cpus), mem_size=min(machine.mem_size, usable.memory)
        )
        self._link: Link | None = None
        self._assignments: Assignments | None = None
        self._availability = Availability({"engine": "the engine is not found yet"}, self._availability_changed)
        self._engine = EngineWatch(host, ask_engine, self._availability, self.vitals, random)
        self._owner = OwnerWatch(
            config.availability,
            data_dir,
            host,
            self._availability,
            self.vitals,
            lambda: self._assignments,
            wall=wall,
            monotonic=monotonic,
        )
        self._journal = Journal(data_dir, config.journal, wall=wall, monotonic=monotonic)
        self._journal_watch = JournalWatch(self._journal, self._availability, self.vitals)
        self._result_limit = config.journal.max_bytes
        """Bytes that an answer may have: until a dispatcher says it, what can be kept."""
        self._told: tuple[list[str], list[str]] = ([], [])
        """Images and warm revisions that the dispatcher knows of."""
        self._shutdown = Shutdown(config.stop.grace_period, config.containers.stop_grace_max, monotonic)

    def stop(self) -> None:
        """Drain and end; asked a second time: abort and end."""
        self._shutdown.ask()

    def give_time_to_finish(self, grace_period: float) -> None:
        """Let running tasks finish for so many seconds at most when the node is stopped; from the next stop on."""
        self._shutdown.grace_period = grace_period

    async def run(self) -> None:
        """Be a node until `stop`.

        Raises:
            JournalError: The journal cannot be used.
            ExceptionGroup: A control loop failed.
        """
        structlog.contextvars.bind_contextvars(node=self._node_id)
        self._log.info("node starts", version=__version__, dispatchers=self._dispatchers)
        # No total: it would count for a session too. Everything else says its own.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as http:
            try:
                kept = await self._open_journal()
                if kept is not None:
                    self._link, self._assignments = self._make_parts(http)
                    self._assignments.restore(kept)
                    await self._run_loops(self._link, self._assignments)
            finally:
                await self._end()

    async def _open_journal(self) -> list[Kept] | None:
        """Give what is left in the journal; None where the node is stopped before it can be opened."""
        opening = asyncio.create_task(self._journal_watch.open())
        stopped = asyncio.create_task(self._shutdown.asked.wait())
        try:
            await asyncio.wait([opening, stopped], return_when=asyncio.FIRST_COMPLETED)
            return opening.result() if opening.done() else None
        finally:
            for task in (opening, stopped):
                task.cancel()
            await asyncio.gather(opening, stopped, return_exceptions=True)

    def _make_parts(self, http: aiohttp.ClientSession) -> tuple[Link, Assignments]:
        link = Link(
            self._dispatchers,
            self._node_id,
            self._authorization,
            self,
            http,
            vitals=self.vitals,
            metrics=self._metrics,
            wall=self._wall,
            random=self._random,
        )
        bodies = Bodies(http, lambda: link.url, self._node_id, self._authorization, random=self._random)
        assignments = Assignments(
            self._journal,
            bodies,
            self._permits,
            self._availability,
            capabilities=self._capabilities_now,
            allowed_accounts=self._config.accounts.allowed,
            allowed_images=self._config.containers.allowed_images,
            privileged_images=self._config.containers.privileged_images,
            begin=self._begin_work,
            send=link.send,
            gave_back=self._engine.attempt_given_back,
            metrics=self._metrics,
            monotonic=self._monotonic,
        )
        return link, assignments

    def _begin_work(self, offer: Offer, body: bytes | Path, report: Report, *, readopt: bool) -> Work:
        return self._begin(offer, body, report, self._result_limit, readopt)

    # Control loops

    async def _run_loops(self, link: Link, assignments: Assignments) -> None:
        """Run all control loops until the node has drained, or one of them fails."""
        running: list[asyncio.Task[None]] = []
        loops: dict[str, Coroutine[Any, Any, None]] = {
            "stop": self._stop_when_asked(link, assignments, running),
            "link": link.run(),
            "engine": self._engine.run(found=self._engine_found),
            "journal": self._journal_watch.run(looked=assignments.drop_aged),
            "owner": self._owner.run(),
            "overdue": self._watch_overdue(link, assignments),
            "memory": self._give_memory_back(),
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
        self._parts.engine_found(self._host.readopt)
        self._owner.engine_found()
        self._log.info("node is ready", capabilities=self._capabilities_now(), free=self._permits.free)

    async def _watch_overdue(self, link: Link, assignments: Assignments) -> NoReturn:
        while True:
            self.vitals.beat("overdue")
            await asyncio.sleep(LOOK_SECONDS)
            if link.is_open:
                assignments.look_for_overdue()

    async def _give_memory_back(self) -> NoReturn:
        taken = 0
        while True:
            self.vitals.beat("memory")
            await asyncio.sleep(GIVE_BACK_SECONDS)
            if taken != self._metrics.offers_taken:
                taken = self._metrics.offers_taken
                await asyncio.to_thread(heap.give_back)

    # What whoever sits at the machine asks, and the service manager

    @property
    def is_up(self) -> bool:
        """It has joined, and its engine answers."""
        return self.phase is Phase.READY and self._link is not None and self._link.is_open

    @property
    def stop_seconds(self) -> float | None:
        """Where it has been told to stop: how long that may still take."""
        if not self._shutdown.asked.is_set():
            return None
        work = self._assignments.time_left() if self._assignments is not None else 0.0
        return self._shutdown.longest(work) + REMOVAL_SECONDS

    def summary(self) -> str:
        """Say in a line how it is."""
        if self._link is None or self._assignments is None:
            return f"{self.phase}: {self._availability.reason}"
        running = self._assignments.running
        work = f"{running} {'task runs' if running == 1 else 'tasks run'}"
        line = f"connected to {self._link.url}" if self._link.is_open else f"no session with {self._link.url}"
        if (stop_seconds := self.stop_seconds) is not None:
            return f"{self.phase}: {work}, {line}, ends within {stop_seconds:.0f} s"
        reason = self._availability.reason
        return f"{self.phase}: {work}, {line}" + (f", takes no work: {reason}" if reason else "")

    def status(self) -> NodeStatus:
        """Say how the node is, whether there is a dispatcher or not."""
        link, attempts = self._link, list(self._assignments or ())
        silence = link.silence if link is not None else None
        return NodeStatus(
            node=self._node_id,
            version=__version__,
            phase=self.phase,
            available=self._availability.available,
            reason=self._availability.reason,
            dispatcher=link.url if link is not None else self._dispatchers[0],
            connected=link is not None and link.is_open,
            last_contact=round(silence, 1) if silence is not None else None,
            round_trip=link.round_trips.median_ms if link is not None else None,
            clock_offset=link.round_trips.clock_offset_ms if link is not None else None,
            permits=_status_of(self._permits),
            tasks=[attempt.status for attempt in attempts],
            runtimes=list(self._host.runtimes),
            warm=list(self._host.warm()),
            spool=SpoolStatus(
                attempts=self._journal.count,
                finished=sum(attempt.held.finished for attempt in attempts),
                bytes=self._journal.bytes,
                max_bytes=self._journal.config.max_bytes,
            ),
            loops=self.vitals.board(),
        )

    def figures(self) -> bytes:
        """Give its figures, as the text that Prometheus reads."""
        return render(families(self.status(), self._metrics, self._host.engine_calls))

    def drain(self) -> None:
        """Finish what runs and begin nothing new, from now until the agent is started again."""
        if self.phase in {Phase.STARTING, Phase.READY}:
            self.phase = Phase.DRAINING
            self._keep_ready(())
            self._log.info("node drains, as was asked for on this machine")
        self._availability.block("draining", "drained on the machine itself")
        if self._assignments is not None:
            self._assignments.drain()

    async def abort(self, task: str) -> list[AttemptStatus]:
        """End what runs for one task, give it back, and say what became of it.

        Raises:
            NothingToAbort: Nothing runs for it here.
        """
        if self._assignments is None:
            raise NothingToAbort(f"task {task} is not here")
        self._log.info("task is stopped, as was asked for on this machine", task=task)
        return [attempt.status for attempt in await self._assignments.abort_task(task)]

    async def canary(self) -> CanaryReport:
        """Let a container of our own go the whole way of a task, whether work is taken or not."""
        return await self._host.canary()

    async def pause(self, seconds: float | None) -> None:
        """Freeze what runs and take nothing new: for so long, or until `resume`; also across a restart of the agent.

        Raises:
            OSError: The pause cannot be kept, and is not begun.
        """
        await self._owner.pause(seconds)

    async def resume(self) -> None:
        """End that pause. What the owner's rules say holds all the same.

        Raises:
            OSError: It would come back with the next start.
        """
        await self._owner.resume()

    def go_by(self, rules: AvailabilityConfig) -> None:
        """Go by other rules of the owner from now on."""
        self._owner.go_by(rules)

    async def gc(self, *, dry_run: bool) -> list[Orphan]:
        """Remove what is left behind, or only list it: containers, networks, volumes, and files of bodies.

        Raises:
            EngineUnavailable: The engine does not answer; the files are removed all the same.
        """
        parts = self._assignments
        files = await self._journal.strays(parts.uses) if parts is not None else []
        if not dry_run:
            for file in files:
                await asyncio.to_thread(file.unlink, missing_ok=True)
        strays = [Orphan("file", str(file), "no attempt needs it") for file in files]
        return strays + list(await self._host.gc(dry_run=dry_run))

    # Stopping

    async def _stop_when_asked(self, link: Link, assignments: Assignments, loops: list[asyncio.Task[None]]) -> None:
        """Drain when asked, and end the other control loops."""
        await self._shutdown.asked.wait()
        self.phase = Phase.DRAINING
        self._availability.block("draining", "draining")
        if self._owner.paused:
            self._shutdown.ask()  # what stands still will not finish: it is given back at once
        await self._shutdown.run(link, assignments)
        for loop in loops:
            if loop is not asyncio.current_task():
                loop.cancel()

    async def _end(self) -> None:
        """Leave nothing behind: no task, no container, no open file."""
        self.phase = Phase.STOPPING
        self.vitals.rest()
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
            clock_offset=self._link.round_trips.clock_offset_ms if self._link is not None else None,
            images=images if images != known_images else None,
            warm=warm if warm != known_warm else None,
        )

    def opened(self, hello: DispatcherHello) -> None:
        """Go by the dispatcher's hello."""
        self._result_limit = hello.result_limit
        self._metrics.sessions_begun += 1
        self._keep_ready(())  # what is wanted by now follows
        self._availability.clear("removed")
        self._log.info("session began", dispatcher=hello.version, keep=len(hello.keep), abandon=len(hello.abandon))
        self._parts.session_opened(hello)

    def received(self, message: DispatcherMessage) -> None:
        """Take a message that concerns work."""
        if isinstance(message, Prewarm):
            self._keep_ready(message.revisions)
        else:
            self._parts.received(message)

    def _keep_ready(self, revisions: Sequence[Revision]) -> None:
        self._host.keep_ready(revisions if self.phase in {Phase.STARTING, Phase.READY} else ())

    def removed(self) -> None:
        """Hear that the account does not want this node any more: its tasks are others' now.

        Outcomes stay, for the node may be restored.
        """
        self._availability.block("removed", "this node was removed from its account")
        self._parts.abort()

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


def _status_of(permits: Permits) -> PermitStatus:
    free, capacity = permits.free, permits.capacity
    return PermitStatus(
        free_cpus=free.cpus,
        held_cpus=(capacity.millicpus - free.millicpus) / 1000,
        free_memory=free.memory,
        held_memory=capacity.memory - free.memory,
        free_slots=free.slots,
        held_slots=capacity.slots - free.slots,
    )
