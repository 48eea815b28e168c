"""The canary: a container of our own that goes the whole way of a task, with the settings of this node.

It is started, reached, asked, answers, and is removed, by the same code that does it for functions, once by each OCI
runtime in use. Whoever can do all of that can run a task; whoever cannot is told at which step, before a task has to
find out.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.containers.answer import AnswerBody
from agent.containers.connection import Connections
from agent.containers.container import Container
from agent.containers.engine import Engine, EngineError, EngineUnavailable, NotFound
from agent.containers.evidence import UNREACHABLE_SECONDS, death_of
from agent.containers.firewall import FirewallError
from agent.containers.footing import Footing
from agent.containers.http_call import Broken, NotHttp, NotSent, post
from agent.containers.marks import Marks
from agent.containers.oom import has_own_group
from agent.containers.pool import Pool
from agent.containers.probe import brought_image
from agent.containers.probe_image import PATH
from agent.containers.reach import Unreachable
from agent.containers.readiness import until_ready
from agent.containers.spec import ContainerSpec
from agent.status import CanaryReport

SECONDS = 60.0
"""For all of it. What is left of it then is removed all the same."""

_STEPS = ("start", "reach", "answer", "remove")
_MIB = 16
_ANSWER_BYTES = 4096


class _Failed(Exception):
    """A step did not do what it is for; the text says what happened."""


async def run_canary(
    engine: Engine,
    arch: str,
    node_id: str,
    footing: Footing,
    runtimes: Sequence[str],
    *,
    start_timeout: float,
    monotonic: Callable[[], float] = time.monotonic,
) -> CanaryReport:
    """Run the canary, and leave nothing of it.

    Args:
        arch: The engine's architecture.
        runtimes: OCI runtimes, one after the other; an empty name is the engine's default.
        start_timeout: Seconds from the start of the container until it must be ready.
    """
    flight = _Flight(engine, node_id, footing, start_timeout, monotonic)
    problem = ""
    try:
        async with asyncio.timeout(SECONDS), brought_image(engine, "fernd-canary", arch, node_id) as image:
            if image is None:
                return CanaryReport(footing.reach.way, skipped=f"there is no canary for {arch}")
            flight.step("image")
            for runtime in runtimes:
                await flight.fly(image, runtime)
    except TimeoutError:
        problem = f"it took longer than {SECONDS:g} s"
    except EngineError as error:
        problem = error.message
    except (_Failed, EngineUnavailable, FirewallError, Unreachable, OSError) as error:
        problem = str(error)
    return CanaryReport(
        footing.reach.way,
        flight.steps,
        problem,
        failed=flight.under_way if problem else "",
        unbounded=flight.unbounded,
    )


class _Flight:
    """One run of the canary.

    Attributes:
        steps: Those that are done, and the ms that each took.
        under_way: The step that is not done yet.
        unbounded: Runtimes that leave a container's limits out.
    """

    def __init__(
        self, engine: Engine, node_id: str, footing: Footing, start_timeout: float, monotonic: Callable[[], float]
    ) -> None:
        self.steps: dict[str, float] = {}
        self.under_way = "image"
        self.unbounded: list[str] = []
        self._engine = engine
        self._start_timeout = start_timeout
        self._monotonic = monotonic
        self._since = monotonic()
        self._reach = footing.reach
        self._node_id = node_id
        # A pool of its own: the node's may be full, which is no fault.
        self._pool = Pool(
            engine,
            footing.traits,
            footing.reach,
            Marks(None),
            memory_budget=_MIB,
            idle_seconds=0,
            warm_limit=0,
            monotonic=monotonic,
        )

    def step(self, name: str) -> None:
        """Note that a step is done."""
        now = self._monotonic()
        self.steps[name] = round((now - self._since) * 1000, 1)
        self._since = now

    async def fly(self, image: str, runtime: str) -> None:
        """Go all the way; the container is gone at the end, whatever happened."""
        # The steps of a runtime that the operator named carry its name.
        start, reach, answer, remove = (f"{runtime} {step}".lstrip() for step in _STEPS)
        network, publish = self._reach.placement("none", "http")
        spec = ContainerSpec(
            image=image,
            mode="http",
            node=self._node_id,
            function="canary",
            revision="canary",
            command=(PATH, "serve"),
            network=network,
            publish=publish,
            memory=_MIB,
            runtime=runtime,
        )
        try:
            self.under_way = start
            container = await self._pool.start(spec)
            self.step(start)
            self.under_way = reach
            await self._until_reached(container)
            self.step(reach)
            self.under_way = answer
            await self._ask(container)
            self.step(answer)
            await self._look_at_limits(container, runtime)
            self.under_way = remove
        finally:
            await self._pool.close()
        await self._make_sure_it_is_gone(container)
        self.step(remove)

    async def _until_reached(self, container: Container) -> None:
        outcome = await until_ready(container, "", self._start_timeout, self._pool.freezer)
        if outcome == "ended":
            death = await death_of(self._engine, container, UNREACHABLE_SECONDS)
            if death is None or death.exit_code is None:
                raise _Failed("the container cannot be reached")
            raise _Failed(f"the container ended with exit code {death.exit_code}")
        if outcome == "late":
            raise _Failed(f"its server was not reached within {self._start_timeout:g} s")

    async def _ask(self, container: Container) -> None:
        assert container.door is not None  # noqa: S101 - it was reached through it
        said = secrets.token_hex(16)
        answer = AnswerBody(Path(), _ANSWER_BYTES)
        try:
            found = await post(Connections(container.door), "", [("X-Task-Id", said)], b"", answer, fresh=True)
        except (NotSent, Broken, NotHttp) as error:
            raise _Failed(str(error)) from None
        if found.status != 200 or said.encode() not in (answer.in_memory() or b""):
            raise _Failed("its server did not answer with what it was asked")

    async def _look_at_limits(self, container: Container, runtime: str) -> None:
        """See whether there is a control group for the limits, where the engine's processes are to be seen."""
        found = await self._engine.inspect(container.name)
        if self._reach.way == "namespace" and not await asyncio.to_thread(has_own_group, found.id, found.pid):
            self.unbounded.append(runtime or "the engine's default")

    async def _make_sure_it_is_gone(self, container: Container) -> None:
        try:
            await self._engine.inspect(container.name)
        except NotFound:
            return
        raise _Failed("the container could not be removed")
