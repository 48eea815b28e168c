"""The containers of this node: started within a memory budget, kept warm, removed.

A container of a function's revision is used again for the next task of that revision, and works for one
at a time, or for as many as the function says.
An idle one is paused after a while, so that it costs no CPU, and removed after a longer while, or when
its memory is needed; the one longest idle goes first, and those that are kept ready for a first task last.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping

import structlog

from agent.containers.container import Container, Sink, State
from agent.containers.cpu_use import CpuUse
from agent.containers.engine import Engine, EngineError, EngineUnavailable, Inspection, NotAsked
from agent.containers.freezer import Freezer
from agent.containers.marks import Marks
from agent.containers.oom import OomCounter
from agent.containers.reach import Door, Reach, Unreachable
from agent.containers.spec import ContainerSpec, EngineTraits, arguments, spec_of
from agent.containers.waiting import Waiting

log = structlog.get_logger()

PAUSE_SECONDS = 10.0
"""An idle container is paused after so long."""

FREEZE_TRIES = 3
"""On a busy machine the kernel's freezer does not always get hold of all processes of a container in time."""

ROOM_SECONDS = 15.0
"""So long a start waits for memory that a removal is about to free."""

REMOVE_TRIES = 3

SPARE = 0.75
"""Containers that nobody asks for yet are started within so much of the budget: the rest stays free for tasks."""


class NoRoom(Exception):
    """The memory budget does not allow another container."""


class NotStarted(EngineUnavailable):
    """The engine went away before it was told to start a container: nothing of it has run."""


class Pool:
    """Starts, lends, keeps and removes containers.

    Attributes:
        freezer: Whether containers stand still.
        waiting: The tasks that wait for a busy container, and the averages that say whether that pays.
    """

    def __init__(
        self,
        engine: Engine,
        traits: EngineTraits,
        reach: Reach,
        marks: Marks,
        *,
        memory_budget: int,
        idle_seconds: float,
        warm_limit: int | None,
        freezer: Freezer | None = None,
        short_of_memory: Callable[[], bool] = lambda: False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a pool.

        Args:
            marks: Kept true to what may be adopted after a crash of the agent.
            memory_budget: MiB that all containers together may have.
            idle_seconds: An idle container is removed after so long.
            warm_limit: Idle containers that are kept at most; None: as many as the memory allows.
            freezer: Whether containers stand still.
            short_of_memory: The machine itself needs memory; then idle containers go, one with each `tend`.
        """
        self._engine = engine
        self._traits = traits
        self._reach = reach
        self._marks = marks
        self._budget = memory_budget
        self._idle_seconds = idle_seconds
        self._warm_limit = warm_limit
        self.freezer = freezer or Freezer(monotonic)
        self._short_of_memory = short_of_memory
        self._monotonic = monotonic
        self._all: dict[str, Container] = {}
        self._idle: OrderedDict[str, Container] = OrderedDict()  # the one longest idle first
        self._removals: dict[str, asyncio.Task[None]] = {}
        self._owed: set[str] = set()
        """Containers that the engine did not remove when it was told to."""
        self._removed = asyncio.Condition()
        self._reserved: Mapping[str, int] = {}
        """Revisions that want containers kept ready, and how many."""
        self.waiting = Waiting(self.give_back)

    def keep_warm(self, idle_seconds: float, limit: int | None) -> None:
        """Keep idle containers for so long, and so many of them; what is above that goes as the pool is tended."""
        self._idle_seconds = idle_seconds
        self._warm_limit = limit

    def reserve(self, wanted: Mapping[str, int]) -> None:
        """Keep so many idle containers of these revisions, however long they are idle, and remove them last."""
        self._reserved = wanted

    def idle(self, revision: str) -> int:
        """Count the idle containers of a revision."""
        return sum(container.spec.revision == revision for container in self._idle.values())

    def has_spare(self, memory: int) -> bool:
        """Say whether so many MiB are left over, so that a container that nobody asks for yet disturbs no task."""
        return self._used() + memory <= self._budget * SPARE and not self._short_of_memory()

    def names(self) -> set[str]:
        """Name the containers that this pool knows, also those being made or removed."""
        return set(self._all)

    def networks(self) -> set[str]:
        """Name the networks that these are on."""
        return {container.spec.network for container in self._all.values()}

    def warm(self) -> list[str]:
        """List the revisions that have an idle container."""
        return sorted({container.spec.revision for container in self._idle.values()})

    async def take(self, revision: str, concurrency: int = 1) -> Container | None:
        """Lend a container of a revision that has room, or the idle one that was used last.

        Where there is none, a busy one is waited for as long as that is expected to be quicker than to start another.
        None: to start another is the thing to do.

        Args:
            concurrency: Tasks that a container works for at a time.

        Raises:
            EngineUnavailable: It is paused and the engine does not answer.
        """
        if self.freezer.frozen:
            await self.freezer.until_thawed()
        if concurrency > 1 and (shared := self._with_room(revision, concurrency)) is not None:
            shared.borrowers += 1
            return shared
        while (container := self._pop_idle(revision)) is not None:
            try:
                self._marks.unmark(container.name)
            except OSError as error:
                log.warning("warm container is not used", container=container.name, reason=str(error))
                self.discard(container)
                continue
            try:
                async with container.lock:
                    if container.state is State.PAUSED:
                        if self.freezer.frozen:
                            container.frozen = True  # since just now: it is lent as it is, and goes on with the others
                        else:
                            await self._engine.unpause(container.name)
                        container.state = State.IDLE
            except EngineError as error:
                log.info("warm container cannot go on", container=container.name, reason=error.message)
                self.discard(container)
                continue
            except BaseException:
                self.discard(container)
                raise
            if container.ended.is_set():
                self.discard(container)
                continue
            container.state = State.BUSY
            container.borrowers = 1
            return container
        patience = self.waiting.patience(revision, self._places(revision, concurrency))
        return None if patience is None else await self.waiting.wait(revision, patience)

    async def start(self, spec: ContainerSpec, sink: Sink | None = None) -> Container:
        """Start a container and lend it. It runs when this returns, and may not be ready yet.

        Args:
            sink: Where its output goes, from its first byte; None: nowhere yet.

        Raises:
            NoRoom: The memory budget does not allow it.
            EngineError: The engine will not create or start it.
            NotStarted: The engine does not answer, and was not told to start it.
            EngineUnavailable: The engine does not answer.
        """
        if self.freezer.frozen:
            await self.freezer.until_thawed()
        container = Container(self._engine, f"fernd-{spec.revision}-{secrets.token_hex(4)}", spec, self._monotonic)
        await self._make_room(spec.memory)
        self._all[container.name] = container
        container.borrowers = 1
        if sink is not None:
            container.send_output(sink)
        # Never cut short: a create call that nobody waits for would leave a container behind. The removal
        # waits for the lock, and so for the end of the start.
        starting = asyncio.create_task(self._start(container), name=f"start {container.name}")
        starting.add_done_callback(_note_failure)
        try:
            await asyncio.shield(starting)
        except BaseException:
            self.discard(container)
            raise
        return container

    async def adopt(self, found: Inspection) -> bool:
        """Take up a server that an earlier run of the agent left, and nothing is asked of, as an idle one.

        Gives False where it is not sound; then it is removed.

        Raises:
            EngineUnavailable: The engine does not answer.
        """
        container = self._known(found)
        sound = False
        try:
            async with container.lock:
                await self._reach.open(container.spec.network)
                if found.paused:
                    await self._engine.unpause(container.name)
                container.listen(await self._engine.attach(container.name), self._when_ended)
                container.oom = await OomCounter.of(found.id, found.pid)
                container.oom.forget()
                container.cpu = await CpuUse.of(found.id, found.pid)
                container.door = self._door(found)
                container.expect_output()
            sound = container.door is not None and await container.door.accepts()
        except (EngineError, OSError) as error:
            log.info("container not adopted", container=container.name, reason=str(error))
        finally:
            if not sound:
                self.discard(container)
        if sound:
            self.give_back(container)
            while self._idle and self._used(leaving=False) > self._budget:
                self.discard(self._least_wanted())
        return sound

    def hold(self, found: Inspection, sink: Sink) -> Container:
        """Take up a job that an earlier run of the agent began, with all its output.

        Args:
            sink: Where its output goes, from its first byte.
        """
        container = self._known(found)
        container.frozen = found.paused
        container.send_output(sink)
        container.listen_to_log(self._when_ended)
        return container

    def retire(self, container: Container) -> None:
        """Take a container back that is not to be used again: it is removed when its other tasks are over."""
        container.leaving = True
        self.give_back(container)

    def give_back(self, container: Container) -> None:
        """Take a container back after a task, and lend it to one that waits; without tasks it is kept warm."""
        container.borrowers -= 1
        stopped = container.leaving or container.signals > 0  # it was told to end, and may be about to
        sound = container.state is State.BUSY and not container.ended.is_set() and not stopped
        if sound and self.waiting.hand_over(container):
            container.borrowers += 1
            return
        if container.borrowers > 0:
            return
        container.stop_output()
        if not sound or self._warm_limit == 0:
            self.discard(container)
            return
        container.state = State.PAUSED if container.frozen else State.IDLE
        container.frozen = False
        self._marks.mark_soon(container.name)
        container.idle_since = self._monotonic()
        self._idle[container.name] = container
        while self._warm_limit is not None and len(self._idle) > self._warm_limit:
            self.discard(self._least_wanted())

    async def signal(self, container: Container, name: str) -> None:
        """Send a signal to a function that is to end. From now on it is not one to be adopted.

        Raises:
            EngineUnavailable: The engine does not answer.
        """
        self._unmark(container)
        await container.signal(name)

    def discard(self, container: Container) -> None:
        """Remove a container, whatever it does. The removal goes on in the background; see `settled`."""
        self._idle.pop(container.name, None)
        self._unmark(container)
        if container.name in self._removals or container.name not in self._all:
            return
        container.stop_output()
        removal = asyncio.create_task(self._remove(container), name=f"remove {container.name}")
        self._removals[container.name] = removal

    async def settled(self) -> None:
        """Wait until all removals that were begun are done."""
        while self._removals:
            await asyncio.gather(*self._removals.values(), return_exceptions=True)

    async def remove_owed(self) -> None:
        """Remove what could not be removed before.

        Raises:
            EngineUnavailable: The engine does not answer.
        """
        for name in list(self._owed):
            try:
                await self._engine.remove(name)
            except EngineError as error:
                log.warning("container not removed", container=name, reason=error.message)
            self._owed.discard(name)  # a refusal is left to the sweep for orphans

    async def tend(self) -> None:
        """Pause and remove what was idle for long enough, and make room where the machine needs it."""
        now = self._monotonic()
        if self._idle and self._short_of_memory():
            gone = self._least_wanted()
            log.info("idle container removed, the machine is short of memory", container=gone.name)
            self.discard(gone)
        for container in list(self._idle.values()):
            idle = now - container.idle_since
            if idle >= self._idle_seconds and not self._is_reserved(container):
                self.discard(container)
            elif container.state is State.IDLE and (idle >= PAUSE_SECONDS or self.freezer.frozen):
                await self._pause(container)

    def cpu_seconds(self) -> dict[str, float] | None:
        """Give the CPU time that each container has used so far, by name; None where one cannot be told."""
        found = {name: container.cpu.seconds() for name, container in self._all.items() if container.cpu is not None}
        known = {name: seconds for name, seconds in found.items() if seconds is not None}
        return known if len(known) == len(found) else None

    async def freeze(self) -> None:
        """Let every container stand still, where it does not yet. Nothing is started or lent until `thaw`.

        Raises:
            EngineUnavailable: The engine does not answer.
        """
        for container in list(self._all.values()):
            async with container.lock:
                if container.state not in {State.BUSY, State.IDLE} or container.frozen or container.ended.is_set():
                    continue
                if not await self._stands_still(container):
                    continue
                if container.state is State.BUSY:
                    container.frozen = True
                else:
                    container.state = State.PAUSED

    async def _stands_still(self, container: Container) -> bool:
        """Freeze a container. One that runs anyway, or has just ended, is no reason to leave the others running."""
        tries_left = FREEZE_TRIES
        while True:
            try:
                await self._engine.pause(container.name)
            except EngineError as error:
                tries_left -= 1
                if not tries_left or container.ended.is_set():
                    log.info("container not frozen", container=container.name, reason=error.message)
                    return False
            else:
                return True

    async def thaw(self) -> None:
        """Let those that work for a task go on; idle ones stay as they are until they are wanted.

        Raises:
            EngineUnavailable: The engine does not answer.
        """
        for container in list(self._all.values()):
            async with container.lock:
                if not container.frozen or container.state is State.GONE:
                    continue
                try:
                    await self._engine.unpause(container.name)
                except EngineError as error:
                    log.warning("container does not go on", container=container.name, reason=error.message)
                    self.discard(container)
                    continue
                container.frozen = False
                if container.state is State.PAUSED:
                    container.state = State.IDLE  # given back meanwhile

    def drop_idle(self) -> None:
        """Remove all idle containers."""
        for container in list(self._idle.values()):
            self.discard(container)

    async def close(self) -> None:
        """Remove all containers."""
        for container in list(self._all.values()):
            self.discard(container)
        await self.settled()

    def _known(self, found: Inspection) -> Container:
        """Make a container that the engine has known, and count its memory."""
        container = Container(self._engine, found.name, spec_of(found), self._monotonic)
        container.state = State.BUSY
        container.borrowers = 1
        self._all[container.name] = container
        return container

    def _unmark(self, container: Container) -> None:
        try:
            self._marks.unmark(container.name)
        except OSError as error:
            log.warning("container stays marked", container=container.name, reason=str(error))

    def _with_room(self, revision: str, concurrency: int) -> Container | None:
        for container in self._all.values():
            if container.spec.revision == revision and container.has_room(concurrency):
                return container
        return None

    def _places(self, revision: str, concurrency: int) -> int:
        """Count the tasks that the containers at work for a revision work for at a time."""
        return sum(
            concurrency
            for container in self._all.values()
            if container.spec.revision == revision and container.ready and container.state is State.BUSY
            if not (container.leaving or container.signals or container.ended.is_set())
        )

    def _is_reserved(self, container: Container) -> bool:
        revision = container.spec.revision
        return revision in self._reserved and self.idle(revision) <= self._reserved[revision]

    def _least_wanted(self) -> Container:
        """Choose the idle container to remove: the one longest idle, of those that are not kept ready if there are."""
        return next(
            (each for each in self._idle.values() if not self._is_reserved(each)), next(iter(self._idle.values()))
        )

    def _pop_idle(self, revision: str) -> Container | None:
        for container in reversed(self._idle.values()):
            if container.spec.revision == revision:
                return self._idle.pop(container.name)
        return None

    async def _pause(self, container: Container) -> None:
        try:
            async with container.lock:
                # While this waited for the lock it may have been lent or given up.
                if container.state is State.IDLE and container.name in self._idle:
                    await self._engine.pause(container.name)
                    container.state = State.PAUSED
        except (EngineError, EngineUnavailable) as error:
            log.info("idle container not paused", container=container.name, reason=str(error))
            if container.name in self._idle:
                self.discard(container)

    async def _make_room(self, memory: int) -> None:
        if memory > self._budget:
            raise NoRoom(f"{memory} MiB are more than the node's {self._budget}")
        try:
            async with asyncio.timeout(ROOM_SECONDS), self._removed:
                while self._used() + memory > self._budget:
                    if self._idle and self._used(leaving=False) + memory > self._budget:
                        self.discard(self._least_wanted())
                        continue
                    await self._removed.wait()
        except TimeoutError:
            raise NoRoom(f"{memory} MiB did not become free") from None

    def _used(self, leaving: bool = True) -> int:
        """Add up the MiB of all containers, or of those that are not being removed."""
        return sum(
            container.spec.memory for name, container in self._all.items() if leaving or name not in self._removals
        )

    async def _start(self, container: Container) -> None:
        spec = container.spec
        job = spec.mode == "job"
        async with container.lock:
            await self._reach.open(spec.network)
            try:
                await self._engine.create(container.name, arguments(spec, self._traits))
                container.listen(await self._engine.attach(container.name, stdin=job), self._when_ended)
            except EngineUnavailable as error:
                raise NotStarted(str(error)) from None
            try:
                await self._engine.start(container.name)
            except NotAsked as error:
                raise NotStarted(str(error)) from None
            container.state = State.BUSY
            found = await self._engine.inspect(container.name)
            container.oom = await OomCounter.of(found.id, found.pid)
            container.cpu = await CpuUse.of(found.id, found.pid) if found.running else None
            if not job and found.running:
                container.door = self._door(found)

    def _door(self, found: Inspection) -> Door | None:
        try:
            return self._reach.door(found)
        except Unreachable as error:
            # Often it has just ended. Otherwise the wait for its readiness says so.
            log.info("container has no door", container=found.name, reason=str(error))
            return None

    def _when_ended(self, container: Container) -> None:
        if container.name in self._idle:
            log.info("warm container ended", container=container.name)
            self.discard(container)

    async def _remove(self, container: Container) -> None:
        try:
            async with container.lock:
                container.state = State.GONE
                await container.close()
                await self._remove_from_engine(container.name)
                await self._remove_network(container.spec.network)
        finally:
            del self._removals[container.name], self._all[container.name]
            async with self._removed:
                self._removed.notify_all()

    async def _remove_network(self, network: str) -> None:
        """Remove the network that a container had to itself; what is left of it the next sweep finds."""
        try:
            await self._reach.close(network)
        except (EngineError, EngineUnavailable) as error:
            log.warning("network not removed", network=network, reason=str(error))

    async def _remove_from_engine(self, name: str) -> None:
        """Remove a container; where the engine is away, later: see `remove_owed`."""
        for attempt in range(1, REMOVE_TRIES + 1):
            try:
                await self._engine.remove(name)
            except (EngineError, EngineUnavailable) as error:
                log.warning("container not removed", container=name, attempt=attempt, reason=str(error))
                await asyncio.sleep(0.1 * attempt)
            else:
                return
        self._owed.add(name)


def _note_failure(start: asyncio.Task[None]) -> None:
    """Look at the end of a start, for which nobody may wait any more."""
    if not start.cancelled() and (error := start.exception()) is not None:
        log.debug("start failed", start=start.get_name(), reason=str(error))
