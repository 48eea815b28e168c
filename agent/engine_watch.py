"""Whether the engine is there: found at the start, however long that takes, and watched from then on.

A node without an engine stays connected and takes no work. An engine that restarts is no reason for
the agent to end, nor to fail one task after the other. One that answers is not believed yet: at the start and after
each trouble a canary goes the whole way of a task first.
"""

from __future__ import annotations

import asyncio
import random as _random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import NoReturn, Protocol

import msgspec
import structlog

from agent.availability import Availability
from agent.backoff import full_jitter
from agent.calls import Calls
from agent.containers.engine import EngineError, EngineUnavailable
from agent.owner.watch import Containers
from agent.protocol import Capabilities, Offer, Revision
from agent.status import CanaryReport, Orphan
from agent.vitals import Vitals

SEARCH_SECONDS = 30.0
"""Between two tries to find the engine, at most."""

ASK_SECONDS = 10.0
"""Between two questions whether it still answers."""

AGAIN_SECONDS = 2.0
"""Between two questions to one that did not."""

ANSWER_SECONDS = 10.0
"""An engine that takes longer to answer is away."""

RESYNC_SECONDS = 120.0
"""For everything that an engine lost to be put back."""

CANARY_SECONDS = 120.0
"""For the canary, and the removal of what is left of it."""

FIND_SECONDS = 900.0
"""For the engine to be looked over at the start: probes, networks, what an earlier run left."""

REMOVAL_SECONDS = 60.0
"""For the engine to remove all containers of this node."""

LOST = "engine_lost"
"""Why an attempt is given back when the engine stopped answering."""


class Host(Containers, Protocol):
    """What the node asks of its containers: `agent.containers.host.ContainerHost`."""

    @property
    def arch(self) -> str:
        """The engine's architecture."""

    @property
    def internet(self) -> bool:
        """Functions can be let to the internet."""

    @property
    def runtimes(self) -> Sequence[str]:
        """The OCI runtimes that functions are run by."""

    @property
    def engine_calls(self) -> Calls:
        """How long calls to the engine take, and how many fail."""

    @property
    def in_doubt(self) -> asyncio.Event:
        """Set when a call found that the engine does not answer."""

    async def start(self) -> None:
        """Find the engine, or raise `EngineUnavailable`."""

    async def resync(self) -> None:
        """Put back what an engine that was away lost, or raise `EngineUnavailable`."""

    async def stop(self) -> None:
        """Remove every container of this node."""

    def images(self) -> list[str]:
        """List the images that are here."""

    def warm(self) -> list[str]:
        """List the revisions with a warm container."""

    def keep_ready(self, revisions: Sequence[Revision]) -> None:
        """Keep containers of these revisions ready, and of no others."""

    async def canary(self) -> CanaryReport:
        """Let a container of our own go the whole way of a task."""

    async def can_run_privileged(self) -> bool:
        """Say whether the operator allows it and a privileged container ran."""

    def readopt(self, offer: Offer) -> bool:
        """Claim the container in which an earlier run of the agent began an offer; False where there is none."""

    async def gc(self, *, dry_run: bool) -> Sequence[Orphan]:
        """Remove what is left behind, or only list it."""


class EngineWatch:
    """Keeps `Availability` true to the engine.

    Args:
        ask: Asks the engine anything; raises `EngineUnavailable` where it does not answer.
    """

    def __init__(
        self,
        host: Host,
        ask: Callable[[], Awaitable[object]],
        availability: Availability,
        vitals: Vitals,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._host = host
        self._ask = ask
        self._availability = availability
        self._vitals = vitals
        self._random = random
        self._in_doubt = host.in_doubt
        self._log = structlog.get_logger()
        self._privileged = False
        self._canaries_lost = 0
        """So many in a row did not come back."""

    def describe(self, capabilities: Capabilities) -> Capabilities:
        """Add to a node's capabilities what the engine can do; nothing before it is found."""
        return msgspec.structs.replace(
            capabilities,
            privileged=self._privileged,
            internet=self._host.internet,
            arch=self._host.arch,
            runtimes=list(self._host.runtimes),
        )

    def attempt_given_back(self, reason: str) -> None:
        """Take no more work at once where the engine was lost, or the same task would come back and forth."""
        if reason == LOST:
            self._availability.block("engine", "the engine does not answer")
            self._in_doubt.set()

    async def run(self, found: Callable[[], None]) -> NoReturn:
        """Find the engine, and ask it now and then.

        Args:
            found: Called once, before work is taken.
        """
        await self._find()
        self._privileged = await self._host.can_run_privileged()
        self._availability.block("engine", "the engine is found, and the canary is not back yet")
        found()
        away = self._judge(await self._canary_trouble())
        while True:
            self._vitals.beat("engine", due=RESYNC_SECONDS + CANARY_SECONDS + 2 * ANSWER_SECONDS if away else 0)
            with suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_SECONDS if away else ASK_SECONDS):
                    await self._in_doubt.wait()
            if away:
                await asyncio.sleep(AGAIN_SECONDS * self._random())  # doubts do not hurry one that is known to be away
            if self._canaries_lost:
                await asyncio.sleep(full_jitter(self._canaries_lost, self._random, longest=SEARCH_SECONDS))
            self._in_doubt.clear()
            trouble = await self._trouble(resync=away)
            if trouble:
                self._in_doubt.clear()  # the question itself raised it
            was_away, away = away, self._judge(trouble)
            if away is not was_away:
                self._log.warning("engine is away" if away else "engine is back", reason=trouble or None)

    def _judge(self, trouble: str) -> bool:
        """Take work or not, by what is wrong with the engine; True if something is."""
        if trouble:
            self._availability.block("engine", trouble)
        else:
            self._availability.clear("engine")
        return bool(trouble)

    async def _canary_trouble(self) -> str:
        """Say why a container cannot be run and used; empty: it can."""
        report = await self._host.canary()
        self._canaries_lost = self._canaries_lost + 1 if report.problem else 0
        if report.problem:
            return f"the canary failed at {report.failed!r}: {report.problem}"
        self._log.info("canary came back", reach=report.reach, ms=report.steps, skipped=report.skipped or None)
        if report.unbounded:
            self._log.warning("limits do not hold: the runtime makes no control groups", runtimes=report.unbounded)
        return ""

    async def _trouble(self, resync: bool) -> str:
        """Say what is wrong with the engine; empty: nothing."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._ask()
            if resync:
                async with asyncio.timeout(RESYNC_SECONDS):
                    await self._host.resync()
                return await self._canary_trouble()
        except TimeoutError:
            return "the engine does not answer in time"
        except (EngineUnavailable, EngineError) as error:
            return str(error)
        return ""

    async def end(self) -> None:
        """Remove every container of this node."""
        try:
            async with asyncio.timeout(REMOVAL_SECONDS):
                await self._host.stop()
        except TimeoutError:
            self._log.error("the engine did not remove all containers", waited=REMOVAL_SECONDS)
        except EngineUnavailable as error:
            self._log.warning("containers could not be removed", reason=str(error))

    async def _find(self) -> None:
        failures = 0
        while True:
            self._vitals.beat("engine", due=FIND_SECONDS)
            try:
                await self._host.start()
            except (EngineUnavailable, EngineError) as error:
                failures += 1
                self._availability.block("engine", str(error))
                await asyncio.sleep(full_jitter(failures, self._random, longest=SEARCH_SECONDS))
            else:
                return
