"""A small fernd to do harm to: a dispatcher, agents, the network between them, an engine, and a caller."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import docker

from tests.chaos.engine_tap import EngineTap, Executions
from tests.chaos.programs import Agent, Dispatcher, Line, Program
from tests.chaos.relay import Relay
from tests.chaos.tally import Tally
from tests.chaos.witness import Witness
from tests.chaos.workload import Client

SYSTEM_ENGINE = "/var/run/docker.sock"


@dataclass
class Place:
    """An agent with its way to the dispatcher and its way to the engine."""

    agent: Agent
    relay: Relay
    tap: EngineTap


@dataclass
class World:
    """Everything of one scenario.

    Attributes:
        expected: Says of a line at level error that the scenario provokes it.
        witness: Sees functions run while no engine reads what they write.
    """

    directory: Path
    tally: Tally
    rng: random.Random
    dispatcher: Dispatcher
    client: Client
    engine: str
    executions: Executions = field(default_factory=Executions)
    places: list[Place] = field(default_factory=list)
    expected: Callable[[Line], bool] = lambda _: False
    witness: Witness | None = None
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _sockets: Path = Path()
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def add_agent(self, environ: Mapping[str, str] | None = None, data_dir: Path | None = None) -> Place:
        """Join and start an agent; it is ready when this returns."""
        name = f"agent{next(self._numbers)}"
        relay = Relay(self.dispatcher.port, self.rng)
        await relay.start()
        self._stack.push_async_callback(relay.close)
        tap = EngineTap(name, self._sockets / f"{name}.sock", self.engine, self.executions)
        await tap.start()
        self._stack.push_async_callback(tap.close)
        settings = {
            "DOCKER_HOST": tap.docker_host,
            "FERND_LOG_LEVEL": "debug",
            "FERND_CAPACITY_SLOTS": "6",
            "FERND_CONTAINERS_STOP_GRACE_MAX": "1",
        }
        agent = Agent(name, self.directory, settings | dict(environ or {}), data_dir)
        self._stack.push_async_callback(agent.close)
        await agent.join(relay.url, await self._join_token())
        place = Place(agent, relay, tap)
        self.places.append(place)
        await agent.start_ready()
        return place

    async def _join_token(self) -> str:
        status, made, _ = await self.client.ask("POST", "/v1/node/join-token", json={})
        assert status == 201, made
        return str(made["token"])

    async def kill(self, *programs: Program) -> None:
        """Kill -9 programs at the same moment, and count it."""
        for program in programs:
            program.signal(signal.SIGKILL)
        self.tally.fault("kill -9 of " + " and ".join(program.kind for program in programs))
        for program in programs:
            await program.ended()

    def remove_image(self, reference: str) -> None:
        """Remove an image that a scenario brought to the engine."""
        with closing(docker.DockerClient(base_url=f"unix://{self.engine}")) as client:
            client.images.remove(reference, force=True)

    async def place_of(self, task: str, seconds: float = 30.0) -> Place:
        """Give the agent on which a task runs, once it does."""
        execution = await self.executions.ran(task, seconds=seconds)
        return next(place for place in self.places if place.agent.name == execution.agent)


@asynccontextmanager
async def world(
    directory: Path,
    tally: Tally,
    name: str,
    *,
    agents: int = 1,
    engine: str = SYSTEM_ENGINE,
    environ: Mapping[str, str] | None = None,
) -> AsyncIterator[World]:
    """Make a world with so many agents, and take it apart.

    Args:
        name: Of the scenario; with the seed of the run it decides all that is random here.
        environ: Further environment of the dispatcher and of these agents.
    """
    directory = directory / name
    directory.mkdir(parents=True)
    rng = random.Random(f"{tally.seed} {name}")
    async with AsyncExitStack() as stack:
        # The path of a unix socket has a small limit, which pytest's own directories come near.
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        dispatcher = Dispatcher(directory, {"FERND_LOG_LEVEL": "debug"} | dict(environ or {}))
        stack.push_async_callback(dispatcher.close)
        await dispatcher.start()
        http = await stack.enter_async_context(aiohttp.ClientSession())
        client = Client(dispatcher.url, dispatcher.token, rng, http)
        made = World(directory, tally, rng, dispatcher, client, engine, _sockets=sockets, _stack=stack)
        await client.create_functions()
        await asyncio.gather(*(made.add_agent(environ) for _ in range(agents)))
        yield made
        tally.rounds += 1
