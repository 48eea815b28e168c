"""What the containers of a node stand on: the traits of its engine and the way to reach them, found out by probes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog

from agent.config import ContainersConfig
from agent.containers.engine import Engine, EngineUnavailable, Facts
from agent.containers.firewall import FirewallError
from agent.containers.networks import Networks
from agent.containers.probe import Probe, probe
from agent.containers.reach import WAYS, Reach, Unreachable, Way
from agent.containers.spec import EngineTraits

log = structlog.get_logger()


class Footing(NamedTuple):
    """What is known of an engine, and the way to its containers."""

    traits: EngineTraits
    reach: Reach


async def find_footing(  # noqa: PLR0917 - what there is to stand on
    engine: Engine,
    facts: Facts,
    config: ContainersConfig,
    networks: Networks,
    node_id: str,
    monotonic: Callable[[], float] = time.monotonic,
) -> Footing:
    """Find out by probes what an engine can do.

    Raises:
        EngineError: The engine refuses what is needed.
        EngineUnavailable: Containers cannot be run, or not be reached; the text is a sentence for the operator.
    """
    if config.runtime and config.runtime not in facts.runtimes:
        known = ", ".join(facts.runtimes)
        raise EngineUnavailable(f"the engine has no OCI runtime {config.runtime!r}; it has {known}")
    traits = EngineTraits(facts.cgroup, facts.cpus, init=True, runtime=config.runtime)
    async with probe(engine, facts.arch, node_id, monotonic) as tried:
        if tried is None:
            log.warning("no probe for this CPU: the engine is taken to have an init process", arch=facts.arch)
            return Footing(traits, await _unproved(config, networks))
        traits = await _find_traits(tried, traits)
        return Footing(traits, await _find_way(tried, traits, config, networks))


async def _unproved(config: ContainersConfig, networks: Networks) -> Reach:
    reach = Reach(config.reach if config.reach != "auto" else "published", networks)
    try:
        await reach.prepare()
    except (FirewallError, Unreachable) as error:
        raise EngineUnavailable(str(error)) from None
    return reach


async def _find_traits(tried: Probe, traits: EngineTraits) -> EngineTraits:
    if not (reason := await tried.runs(traits)):
        return traits
    without = EngineTraits(traits.cgroup, traits.cpus, init=False, runtime=traits.runtime)
    if again := await tried.runs(without):
        raise EngineUnavailable(f"the Docker Engine cannot run a container: {again}")
    log.warning("functions run without an init process before them", reason=reason)
    return without


async def _find_way(tried: Probe, traits: EngineTraits, config: ContainersConfig, networks: Networks) -> Reach:
    ways: Sequence[Way] = WAYS if config.reach == "auto" else (config.reach,)
    for way in ways:
        reach = Reach(way, networks)
        if not (reason := await tried.reaches(reach, traits)):
            return reach
        log.info("way to containers does not work", way=way, reason=reason)
    raise EngineUnavailable(f"the agent cannot reach its containers (tried: {', '.join(ways)})")
