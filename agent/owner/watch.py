"""Keeps a node true to what its owner wants: looks at the machine, judges, and acts on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import NoReturn, Protocol

import structlog

from agent.availability import Availability
from agent.config import AvailabilityConfig
from agent.containers.engine import EngineError, EngineUnavailable
from agent.owner import command, pause, sensors
from agent.owner.others import OthersLoad
from agent.owner.rules import Readings, Rule, Standing, Verdict, decide
from agent.vitals import Vitals

LOOK_SECONDS = 5.0
"""Between two looks at the machine."""

ENGINE_DISK = Path("/var/lib/docker")
"""Where the engine keeps images and containers, unless it was told otherwise."""


class Containers(Protocol):
    """What is asked of the containers: `agent.containers.host.ContainerHost`."""

    def rest(self, *, drop_idle: bool) -> None:
        """Keep nothing ready until `thaw`, and perhaps remove what is idle."""

    async def freeze(self) -> None:
        """Let all of them stand still, or raise `EngineUnavailable`."""

    async def thaw(self) -> None:
        """End what `rest` and `freeze` began, or raise `EngineUnavailable`."""

    def cpu_seconds(self) -> Mapping[str, float] | None:
        """Give the CPU time that each has used, or None."""


class Attempts(Protocol):
    """What is asked of the attempts: `agent.assignments.Assignments`."""

    def drain(self) -> None:
        """Give back what has not begun."""

    def abort(self) -> None:
        """End what runs, to give it back."""


class OwnerWatch:
    """Keeps `Availability` true to the owner's rules and to his own pause.

    Args:
        data_dir: Where a pause is kept.
        attempts: Gives what the node holds; None before there is anything.
        root: Of the files that sensors read.
    """

    def __init__(  # noqa: PLR0917 - all but the files and the clocks are what it stands between
        self,
        config: AvailabilityConfig,
        data_dir: Path,
        containers: Containers,
        availability: Availability,
        vitals: Vitals,
        attempts: Callable[[], Attempts | None],
        *,
        root: Path = sensors.ROOT,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self._data_dir = data_dir
        self._containers = containers
        self._availability = availability
        self._vitals = vitals
        self._attempts = attempts
        self._root = root
        self._wall = wall
        self._monotonic = monotonic
        self._pause = pause.load(data_dir)
        self._others = OthersLoad(containers.cpu_seconds, monotonic)
        self._standings: dict[Rule, Standing] = {}
        self._verdict = Verdict()
        self._paused_since: float | None = None
        self._said: str | None = None
        """What the owner's command said last; None: nothing yet."""
        self._asked_at = 0.0
        self._asking: asyncio.Task[str] | None = None
        self._look_now = asyncio.Event()
        self._looking = asyncio.Lock()
        self._log = structlog.get_logger()
        self._availability.block("owner", "the owner's rules are not looked at yet")

    @property
    def paused(self) -> bool:
        """Containers stand still."""
        return self._verdict.effect == "pause"

    async def pause(self, seconds: float | None) -> None:
        """Pause the node, as its owner asks: for so long, or until `resume`; also across a restart.

        Containers stand still when this returns, if the engine answers.

        Raises:
            OSError: The pause cannot be kept, and is not begun.
        """
        wanted = pause.Pause(None if seconds is None else self._wall() + seconds)
        await asyncio.to_thread(pause.store, self._data_dir, wanted)
        self._pause = wanted
        await self._look()

    async def resume(self) -> None:
        """End the owner's own pause. What his rules say holds all the same.

        Raises:
            OSError: It would come back with the next start.
        """
        await asyncio.to_thread(pause.store, self._data_dir, None)
        self._pause = None
        await self._look()

    def go_by(self, config: AvailabilityConfig) -> None:
        """Go by other rules from now on. How the old ones stood does not matter to them."""
        if config.available_when != self.config.available_when:
            self._forget_command()
        self.config = config
        self._standings = {}
        self._look_now.set()

    def engine_found(self) -> None:
        """Do at once what the engine was not there for."""
        self._look_now.set()

    async def run(self) -> NoReturn:
        """Look, judge and act, until cancelled."""
        try:
            while True:
                self._vitals.beat("owner")
                self._look_now.clear()
                await self._look()
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(LOOK_SECONDS, self.config.available_when_interval)):
                        await self._look_now.wait()
        finally:
            self._forget_command()

    async def _look(self) -> None:
        async with self._looking:
            said = self._ask()
            readings = await self._read(said)
            verdict, self._standings = decide(self.config, readings, self._standings, self._monotonic())
            if verdict.effect is None and self.config.available_when and said is None:
                self._availability.block("owner", "available_when has not said anything yet")
                return
            await self._act(verdict)

    def _ask(self) -> str | None:
        """See to it that the owner's command runs when it is due, and give what it said last."""
        if not self.config.available_when:
            return None
        now = self._monotonic()
        if self._asking is not None and self._asking.done():
            self._said, self._asking = self._asking.result(), None
        if self._asking is None and (self._said is None or now - self._asked_at >= self.config.available_when_interval):
            self._asked_at = now
            self._asking = asyncio.create_task(
                command.ask(self.config.available_when, self.config.available_when_timeout), name="available_when"
            )
            self._asking.add_done_callback(lambda _: self._look_now.set())
        return self._said

    def _forget_command(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
        self._asking = self._said = None

    async def _read(self, said: str | None) -> Readings:
        """Read what the rules ask for, and nothing else."""
        config, root = self.config, self._root
        power = config.mains_power or config.battery_min is not None
        on_battery, battery = await asyncio.to_thread(sensors.power, root) if power else (None, None)
        hot = config.temperature_max is not None
        disks = (self._data_dir, ENGINE_DISK)
        return Readings(
            local=datetime.fromtimestamp(self._wall(), config.zone),
            paused=self._pause.reason(self._wall()) if self._pause is not None else "",
            on_battery=on_battery,
            battery=battery,
            load=self._others.read() if config.load_max is not None else None,
            temperature=await asyncio.to_thread(sensors.temperature, root) if hot else None,
            disk_free=await asyncio.to_thread(sensors.disk_free, disks) if config.disk_min is not None else None,
            metered=await sensors.metered(root) if config.on_metered != "ignore" else None,
            own=said,
        )

    async def _act(self, verdict: Verdict) -> None:
        """Make the node true to a verdict. What the engine did not do is done with the next look."""
        before, self._verdict = self._verdict, verdict
        if verdict.effect is None:
            self._paused_since = None
            if await self._in_order(self._containers.thaw()):
                self._availability.clear("owner")
            return
        self._availability.block("owner", verdict.reason)
        attempts = self._attempts()
        if verdict.effect == "decline":
            self._paused_since = None
            await self._in_order(self._containers.thaw())
            return
        if attempts is not None and verdict.effect != before.effect:
            attempts.drain()
        if verdict.effect == "drain":
            self._paused_since = None
            await self._in_order(self._containers.thaw())
            self._containers.rest(drop_idle=True)
            return
        if self._paused_since is None:
            self._paused_since = self._monotonic()
        await self._in_order(self._containers.freeze())
        if attempts is not None and self._monotonic() - self._paused_since >= self.config.pause_max:
            attempts.abort()

    async def _in_order(self, work: Awaitable[None]) -> bool:
        """Do something with the engine, and say whether it could be done."""
        try:
            await work
        except (EngineError, EngineUnavailable) as error:
            self._log.info("the owner's wish waits for the engine", reason=str(error))
            return False
        return True
