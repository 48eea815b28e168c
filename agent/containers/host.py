"""Everything about containers behind one door: what the rest of the agent sees of the engine."""

from __future__ import annotations

import asyncio
import random as _random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import structlog

from agent.calls import Calls
from agent.config import ContainersConfig, ImagesConfig
from agent.containers.adoption import FED_BYTES, Left, survey
from agent.containers.canary import run_canary
from agent.containers.container import Container, Sink
from agent.containers.engine import Engine, EngineError, EngineUnavailable, Image, Inspection, NotFound
from agent.containers.firewall import FirewallError
from agent.containers.footing import Footing, find_footing
from agent.containers.freezer import Freezer
from agent.containers.image_memory import ImageMemory
from agent.containers.images import Images, ImageUnavailable, NoDisk
from agent.containers.marks import Marks
from agent.containers.memory_pressure import short_of_memory
from agent.containers.networks import Networks
from agent.containers.orphans import remove_files, remove_orphans
from agent.containers.pool import Pool
from agent.containers.prewarm import CannotPrewarm, Prewarm
from agent.containers.probe import probe
from agent.containers.reach import Reach, Unreachable
from agent.containers.spec import (
    ContainerSpec,
    EngineTraits,
    attempt_label,
    is_allowed,
    may_be_privileged,
    server_environment,
)
from agent.protocol import Offer, Revision
from agent.status import CanaryReport, Orphan
from agent.vitals import Vitals

log = structlog.get_logger()

TEND_SECONDS = 1.0
SWEEP_SECONDS = 60.0
"""Between two sweeps for orphans, on average."""

ATTACHED_WARM_LIMIT = 16
"""Idle containers that are kept where each has a network to itself, of which an engine has some thirty."""

CLAIM_SECONDS = 60.0
"""A job that an earlier run of the agent began is kept so long for `ContainerHost.readopt`."""


class Refused(Exception):
    """This node does not run such a function; the text is a short reason."""


class ContainerHost:
    """The containers of one node on one engine.

    Life: `start` finds the engine, takes up what an earlier run left and removes the rest of it, and learns by
    probes what can be done; then invocations use `pool` and `image_store`, and `readopt` gives them jobs that were
    left; `stop` removes every container and network of this node.

    Attributes:
        arch: The engine's architecture, such as ``x86_64``; empty before `start`.
        internet: Functions can be let to the internet: the operator allows it and the walls around them stand.
        runtimes: The OCI runtimes that functions are run by; empty before `start`.
        engine: The engine.
        image_store: Its images.
        pool: The containers; there from `start` on.
        marks: What is known of them across a crash.
        freezer: Whether they stand still, as their owner wants it.
    """

    def __init__(
        self,
        config: ContainersConfig,
        node_id: str,
        memory_budget: int,
        images: ImagesConfig | None = None,
        marks: Path | None = None,
        *,
        pulled: Path | None = None,
        vitals: Vitals | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random.random,
    ) -> None:
        """Make a host, that does nothing before `start`.

        Args:
            memory_budget: MiB that all containers together may have.
            images: How images are pulled; None: as by default.
            pulled: File of the images that were pulled; None: none of them is ever removed after a restart.
            marks: Directory for `Marks`; None: nothing is taken up after a crash.
            vitals: Where the upkeep of containers says that it makes progress.
        """
        self.config = config
        self.engine = Engine()
        self.image_store = Images(self.engine, images or ImagesConfig(), memory=ImageMemory(pulled))
        self.arch = ""
        self.internet = False
        self.runtimes: list[str] = []
        self.marks = Marks(marks)
        self.freezer = Freezer(monotonic)
        self._vitals = vitals or Vitals(monotonic)
        self._node_id = node_id
        self._memory_budget = memory_budget
        self._monotonic = monotonic
        self._random = random
        self._networks = Networks(self.engine, node_id)
        self._traits = EngineTraits(cgroup=1, cpus=1, init=False)
        self._reach = Reach("published", self._networks)
        self._pool: Pool | None = None
        self._left = Left([], {}, frozenset())
        self._claimed: dict[str, str] = {}
        """Attempts of jobs that were readopted and not taken up yet, and the names of their containers."""
        self._upkeep: asyncio.Task[None] | None = None
        self._runtimes = config.runtimes_read
        self._privileged: dict[str, bool] = {}
        """Runtimes that were tried for privileged containers, and whether they run them."""
        self._canary = asyncio.Lock()
        self._wanted_ready: Sequence[Revision] = ()
        self._resting = False
        """Nothing is kept ready: the owner wants the machine."""
        self._prewarm: Prewarm | None = None
        self._prewarming: asyncio.Task[None] | None = None
        self._stopped = False

    async def start(self) -> None:
        """Make ready to run functions.

        Raises:
            EngineUnavailable: There is no engine that can be used; the text is a sentence for the operator.
        """
        try:
            facts = await self.engine.connect()
            self.arch = facts.arch
            self._left = await survey(self.engine, self._node_id, self.marks, self._runtimes, facts.default_runtime)
            await remove_orphans(self.engine, self._node_id, self._names, grace=0)
            await self._networks.remove()
            footing = await find_footing(
                self.engine, facts, self.config, self._networks, self._node_id, self._monotonic
            )
            self._traits, self._reach = footing
            self.runtimes = list(dict.fromkeys(name or facts.default_runtime for name in self._runtimes.in_use()))
            await self._open_internet()
            await self.image_store.refresh()
            pool = await self._new_pool(self._left.warm)
        except EngineError as error:
            raise EngineUnavailable(f"the Docker Engine refused what fernd needs: {error.message}") from None
        self._pool = pool
        await asyncio.to_thread(remove_files, self.marks.strays(self._names()), dry_run=False)
        self._upkeep = asyncio.create_task(self._keep_up(pool), name="container upkeep")
        self._prewarm = Prewarm(pool, self._start_ahead, self.config.start_timeout, self.freezer, self._monotonic)
        self._prewarm.want(() if self._resting else self._wanted_ready)
        self._prewarming = asyncio.create_task(self._prewarm.run(), name="prewarm")
        log.info(
            "engine found",
            version=facts.version,
            arch=self.arch,
            reach=self._reach.way,
            init=self._traits.init,
            live_restore=self.engine.live_restore,
            adopted=len(pool.names()),
            jobs=len(self._left.jobs),
        )

    async def resync(self) -> None:
        """Put back what an engine that was away may have lost. Containers look after themselves.

        Raises:
            EngineUnavailable: It does not answer.
        """
        try:
            await self.engine.connect()
            self._networks.forget()
            await self._reach.prepare()
            if self.internet:
                await self._networks.make("internet")
            await self.image_store.refresh()
            await self.pool.remove_owed()
        except (EngineError, FirewallError, Unreachable) as error:
            raise EngineUnavailable(f"what fernd needs of the Docker Engine is not there again: {error}") from None

    def keep_warm(self, idle_seconds: float, limit: int | None) -> None:
        """Keep idle containers for so long, and so many of them, from now on."""
        self.config = msgspec.structs.replace(self.config, idle_seconds=idle_seconds, warm_limit=limit)
        if self._pool is not None:
            self._pool.keep_warm(idle_seconds, self._warm_limit)

    @property
    def _warm_limit(self) -> int | None:
        """Idle containers at most: memory sets the limit, where nobody does and networks are not scarcer."""
        few_networks = ATTACHED_WARM_LIMIT if self._reach.way == "attached" else None
        return self.config.warm_limit if self.config.warm_limit is not None else few_networks

    def readopt(self, offer: Offer) -> bool:
        """Claim the job that an earlier run of the agent began for an offer; False where it cannot be gone on with.

        An `Invocation` with ``readopt`` goes on with it.
        """
        attempt = attempt_label(offer.lease)
        left = self._left.jobs.get(attempt)
        # Of a large input an engine that was restarted may have kept a part to itself.
        if left is None or (offer.body_size > FED_BYTES and attempt not in self._left.kept):
            return False
        self._claimed[attempt] = self._left.jobs.pop(attempt).name
        return True

    async def claimed(self, offer: Offer) -> Inspection:
        """Look at the job that was claimed for an offer.

        Raises:
            EngineUnavailable: It is gone, or the engine does not answer.
        """
        name = self._claimed.pop(attempt_label(offer.lease), "")
        try:
            return await self.engine.inspect(name)
        except EngineError as error:
            raise EngineUnavailable(f"the job is gone: {error.message}") from None

    async def gc(self, *, dry_run: bool) -> list[Orphan]:
        """Remove what carries this node's label and nothing here knows, or only list it.

        Raises:
            EngineUnavailable: The engine does not answer.
        """
        known = self._names
        orphans = await remove_orphans(self.engine, self._node_id, known, dry_run=dry_run)
        return orphans + await asyncio.to_thread(remove_files, self.marks.strays(known()), dry_run=dry_run)

    async def _new_pool(self, warm: Sequence[Inspection]) -> Pool:
        """Make the pool, with those of the servers left behind that are still allowed and sound."""
        pool = Pool(
            self.engine,
            self._traits,
            self._reach,
            self.marks,
            memory_budget=self._memory_budget,
            idle_seconds=self.config.idle_seconds,
            warm_limit=self._warm_limit,
            freezer=self.freezer,
            short_of_memory=short_of_memory,
            monotonic=self._monotonic,
        )
        for found in warm:
            if found.network == self._networks.name("internet") and not self.internet:
                await self.engine.remove(found.id)
            else:
                await pool.adopt(found)
        return pool

    async def stop(self) -> None:
        """Remove every container and network of this node. May be called again, and after a `start` that failed."""
        if self._stopped:
            return
        self._stopped = True
        for loop in (self._upkeep, self._prewarming):
            if loop is not None:
                loop.cancel()
                await asyncio.gather(loop, return_exceptions=True)
        if self._upkeep is not None:
            self._vitals.rest("containers")
        if self._pool is not None:
            await self._pool.close()
        if self.arch:
            try:
                await remove_orphans(self.engine, self._node_id, self._networks.names, grace=0)
                await self._networks.remove()
                # Those too of containers that an earlier run left, and that were not looked through yet.
                await asyncio.to_thread(remove_files, self.marks.strays(()), dry_run=False)
            except (EngineError, EngineUnavailable) as error:
                log.warning("containers may be left behind", reason=str(error))
        await self.engine.close()

    @property
    def engine_calls(self) -> Calls:
        """How long calls to the engine take, and how many fail."""
        return self.engine.call_figures

    @property
    def in_doubt(self) -> asyncio.Event:
        """Set when a call found that the engine does not answer."""
        return self.engine.in_doubt

    @property
    def pool(self) -> Pool:
        """The containers."""
        if self._pool is None:
            raise EngineUnavailable("the container host was not started")
        return self._pool

    def images(self) -> list[str]:
        """List the references of the images that are present, as of a minute ago at the latest."""
        return self.image_store.present

    def warm(self) -> list[str]:
        """List the keys of the revisions that have a warm container."""
        return self._pool.warm() if self._pool is not None else []

    def keep_ready(self, revisions: Sequence[Revision]) -> None:
        """Keep containers of these revisions ready for a task, and of no others; see `Prewarm`."""
        self._wanted_ready = revisions
        if self._prewarm is not None and not self._resting:
            self._prewarm.want(revisions)

    def rest(self, *, drop_idle: bool) -> None:
        """Keep nothing ready until `thaw`.

        Args:
            drop_idle: Remove idle containers, too.
        """
        self._resting = True
        if self._prewarm is not None:
            self._prewarm.want(())
        if drop_idle and self._pool is not None:
            self._pool.drop_idle()

    async def freeze(self) -> None:
        """Let all containers, and the time limits of what runs in them, stand still; again: what does not yet.

        Raises:
            EngineUnavailable: The engine does not answer, and some may still run.
        """
        self.rest(drop_idle=False)
        self.freezer.freeze()
        if self._pool is not None:
            await self._pool.freeze()

    async def thaw(self) -> None:
        """End what `rest` and `freeze` began.

        Raises:
            EngineUnavailable: The engine does not answer, and some may still stand still.
        """
        if self._pool is not None:
            await self._pool.thaw()
        self.freezer.thaw()
        if self._resting:
            self._resting = False
            self.keep_ready(self._wanted_ready)

    def cpu_seconds(self) -> dict[str, float] | None:
        """Give the CPU time that each container has used so far, by name; None where one cannot be told."""
        return self._pool.cpu_seconds() if self._pool is not None else {}

    async def can_run_privileged(self) -> bool:
        """Say whether the operator allows privileged images and a privileged probe ran by any runtime in use."""
        return any([await self._runs_privileged(runtime) for runtime in self._runtimes.in_use()])

    async def _runs_privileged(self, runtime: str) -> bool:
        if not self.config.privileged_images:
            return False
        if runtime not in self._privileged:
            try:
                self._privileged[runtime] = await self._probe_privileged(runtime)
            except (EngineError, EngineUnavailable) as error:
                log.warning("privileged containers could not be probed", reason=str(error))
                return False
        return self._privileged[runtime]

    async def canary(self) -> CanaryReport:
        """Run the canary: a container of our own that goes the whole way of a task."""
        async with self._canary:
            return await run_canary(
                self.engine,
                self.arch,
                self._node_id,
                Footing(self._traits, self._reach),
                self._runtimes.in_use(),
                start_timeout=self.config.start_timeout,
                monotonic=self._monotonic,
            )

    async def start_container(self, offer: Offer, image: Image, env: dict[str, str], sink: Sink) -> Container:
        """Start a container for an attempt; see `Pool.start`.

        Args:
            image: The revision's image, which is present.
            env: What the function contract puts into the environment.

        Raises:
            Refused: This node does not do what the function asks for.
        """
        attempt = attempt_label(offer.lease) if offer.revision.mode == "job" else ""
        return await self.pool.start(await self._spec(offer.revision, image, env, attempt), sink)

    async def _start_ahead(self, revision: Revision) -> Container:
        """Start a container of a revision that no task asks for yet; see `Prewarm`."""
        try:
            image = await self.engine.image(revision.image)
            if revision.pull != "missing":
                image = await self.image_store.ensure(revision.image, _no_report, _no_report, revision.pull)
            spec = await self._spec(revision, image, server_environment())
        except NotFound:
            raise CannotPrewarm("the image is not here") from None
        except (Refused, ImageUnavailable, NoDisk) as reason:
            raise CannotPrewarm(str(reason)) from None
        return await self.pool.start(spec)

    async def _spec(self, revision: Revision, image: Image, env: dict[str, str], attempt: str = "") -> ContainerSpec:
        if not is_allowed(revision.image, self.config.allowed_images):
            raise Refused("image_not_allowed")
        if revision.network == "internet" and not self.internet:
            raise Refused("no_internet")
        runtime = self._runtimes.of(revision.image, revision.function)
        if revision.privileged and not may_be_privileged(
            revision, self.config.privileged_images, await self._runs_privileged(runtime)
        ):
            raise Refused("not_privileged")
        network, publish = self._reach.placement(revision.network, revision.mode)
        return ContainerSpec(
            image=revision.image,
            mode=revision.mode,
            node=self._node_id,
            function=revision.function,
            revision=revision.key,
            user=image.user,
            volumes=image.volumes,
            env=revision.env,
            contract_env=env,
            network=network,
            publish=publish,
            cpus=revision.cpus,
            # A node smaller than the default gives what it has; see `Revision.share_of`.
            memory=revision.mem_size or min(revision.memory, self._memory_budget),
            privileged=revision.privileged,
            runtime=runtime,
            attempt=attempt,
            grace=min(revision.grace, self.config.stop_grace_max),
        )

    async def _probe_privileged(self, runtime: str) -> bool:
        async with probe(self.engine, self.arch, self._node_id, self._monotonic) as tried:
            no_probe = "there is no probe for this CPU"
            reason = await tried.runs(self._traits, runtime, privileged=True) if tried else no_probe
        if reason:
            log.warning("privileged containers cannot be run", runtime=runtime or None, reason=reason)
        return not reason

    async def _open_internet(self) -> None:
        if not self.config.allow_internet:
            return
        try:
            await self._networks.make("internet")
        except FirewallError as error:
            log.warning("functions get no internet: their network cannot be walled in", reason=str(error))
        else:
            self.internet = True

    def _names(self) -> set[str]:
        """Name everything on the engine that this node knows."""
        pool = self._pool.names() | self._pool.networks() if self._pool is not None else set()
        return pool | self._left.names() | set(self._claimed.values()) | self._networks.names()

    async def _keep_up(self, pool: Pool) -> None:
        """Tend the pool, and now and then look for orphans and for images that came or went."""
        begun = self._monotonic()
        sweep_at = begun + self._random() * SWEEP_SECONDS
        self._left = Left([], self._left.jobs, self._left.kept)  # the pool knows the others by now
        while True:
            self._vitals.beat("containers")
            await asyncio.sleep(TEND_SECONDS)
            now = self._monotonic()
            if self._left.jobs and now - begun >= CLAIM_SECONDS:
                log.warning("jobs left by an earlier run are not wanted", containers=sorted(self._left.names()))
                self._left = Left([], {}, frozenset())
            try:
                await pool.tend()
                if now >= sweep_at:
                    # At random within the interval, so that many nodes do not fall into step.
                    sweep_at = now + SWEEP_SECONDS * (0.5 + self._random())
                    await pool.remove_owed()
                    await self.gc(dry_run=False)
                    await self.image_store.make_room()
                    await self.image_store.refresh()
            except (EngineError, EngineUnavailable) as error:
                log.warning("container upkeep waits for the engine", reason=str(error))


def _no_report(*_: object) -> None:
    """Nobody waits to hear how far it is."""
