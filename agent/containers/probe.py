"""What the engine can do, found out by trying: an init process, a way to reach containers, privileged ones.

A probe is a container of the tiny image of `probe_image`. It is removed whatever happens, and so is the image.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Callable

import msgspec
import structlog

from agent.containers import probe_image
from agent.containers.engine import Engine, EngineError, Inspection
from agent.containers.firewall import FirewallError
from agent.containers.reach import Reach, Unreachable
from agent.containers.spec import ContainerSpec, EngineTraits, arguments

log = structlog.get_logger()

_SECONDS = 10.0
_PAUSE = 0.02


class Probe:
    """Tries things on an engine. Made by `probe`.

    Args:
        image: Reference of the probe image.
    """

    def __init__(self, engine: Engine, image: str, node_id: str, monotonic: Callable[[], float]) -> None:
        self._engine = engine
        self._monotonic = monotonic
        self._spec = ContainerSpec(
            image=image,
            mode="http",
            node=node_id,
            function="probe",
            revision="probe",
            command=(probe_image.PATH,),
            memory=16,
        )

    async def runs(self, traits: EngineTraits, runtime: str, privileged: bool = False) -> str:
        """Try to run a container to its end. Gives an empty string, or why that failed."""
        spec = msgspec.structs.replace(self._spec, runtime=runtime, privileged=privileged)
        try:
            async with self._container(spec, traits) as container:
                ended = await self._until(container, lambda found: not found.running)
        except EngineError as error:
            return error.message
        return "" if ended is not None and ended.exit_code == 0 else "the probe container did not end with exit code 0"

    async def reaches(self, reach: Reach, traits: EngineTraits, runtime: str) -> str:
        """Try to reach a server in a container. Gives an empty string, or why that failed."""
        try:
            await reach.prepare()
            network, publish = reach.placement("none", "http")
            command = (probe_image.PATH, "listen")
            spec = msgspec.structs.replace(
                self._spec, runtime=runtime, network=network, publish=publish, command=command
            )
            await reach.open(network)
            try:
                async with self._container(spec, traits) as container:
                    return await self._connects(reach, container)
            finally:
                await reach.close(network)
        except EngineError as error:
            return error.message
        except (FirewallError, Unreachable, OSError) as error:
            return str(error)

    async def _connects(self, reach: Reach, container: str) -> str:
        started = await self._until(container, lambda found: found.running)
        if started is None:
            return "the probe container did not start"
        door = reach.door(started)
        try:
            deadline = self._monotonic() + _SECONDS / 2
            while not await door.accepts():
                if self._monotonic() > deadline:
                    return "the probe container could not be connected to"
                await asyncio.sleep(_PAUSE)
        finally:
            door.close()
        return ""

    @contextlib.asynccontextmanager
    async def _container(self, spec: ContainerSpec, traits: EngineTraits) -> AsyncIterator[str]:
        name = f"fernd-probe-{secrets.token_hex(4)}"
        try:
            await self._engine.create(name, arguments(spec, traits))
            await self._engine.start(name)
            yield name
        finally:
            await self._engine.remove(name)

    async def _until(self, container: str, holds: Callable[[Inspection], bool]) -> Inspection | None:
        deadline = self._monotonic() + _SECONDS
        while self._monotonic() < deadline:
            found = await self._engine.inspect(container)
            if holds(found):
                return found
            await asyncio.sleep(_PAUSE)
        return None


@contextlib.asynccontextmanager
async def probe(
    engine: Engine, arch: str, node_id: str, monotonic: Callable[[], float] = time.monotonic
) -> AsyncIterator[Probe | None]:
    """Bring the probe image to the engine for a while; None where there is no such image for its architecture."""
    async with brought_image(engine, "fernd-probe", arch, node_id) as image:
        yield Probe(engine, image, node_id, monotonic) if image is not None else None


@contextlib.asynccontextmanager
async def brought_image(engine: Engine, name: str, arch: str, node_id: str) -> AsyncIterator[str | None]:
    """Bring the image of `probe_image` to the engine, under a name, for a while; None where its CPU has none."""
    layer = probe_image.layer(arch)
    if layer is None:
        yield None
        return
    # Another agent may do so on the same engine at the same time.
    tag = hashlib.sha256(node_id.encode()).hexdigest()[:12]
    reference = f"{name}:{tag}"
    try:
        await engine.remove_image(reference)  # one that a crash left
        await engine.import_image(layer, name, tag)
        yield reference
    finally:
        await engine.remove_image(reference)
