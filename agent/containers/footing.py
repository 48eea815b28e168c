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
    runtimes = config.runtimes_read
    if lacking := runtimes.lacking(facts.runtimes):
        raise EngineUnavailable(lacking)
    traits = EngineTraits(facts.cgroup, facts.cpus, init=True)
    async with probe(engine, facts.arch, node_id, monotonic) as tried:
        if tried is None:
            log.warning("no probe for this CPU: the engine is taken to have an init process", arch=facts.arch)
            return Footing(traits, await _unproved(config, networks))
        traits = await _find_traits(tried, traits, runtimes.in_use())
        return Footing(traits, await _find_way(tried, traits, config, networks))


async def _unproved(config: ContainersConfig, networks: Networks) -> Reach:
    reach = Reach(config.reach if config.reach != "auto" else "published", networks)
    try:
        await reach.prepare()
    except (FirewallError, Unreachable) as error:
        raise EngineUnavailable(str(error)) from None
    return reach


async def _find_traits(tried: Probe, traits: EngineTraits, runtimes: Sequence[str]) -> EngineTraits:
    if not (reason := await _all_run(tried, traits, runtimes)):
        return traits
    without = EngineTraits(traits.cgroup, traits.cpus, init=False)
    if again := await _all_run(tried, without, runtimes):
        raise EngineUnavailable(f"the Docker Engine cannot run a container: {again}")
    log.warning("functions run without an init process before them", reason=reason)
    return without


async def _all_run(tried: Probe, traits: EngineTraits, runtimes: Sequence[str]) -> str:
    """Say which runtime does not run a container, and why; empty: all do."""
    for runtime in runtimes:
        if reason := await tried.runs(traits, runtime):
            return f"by {runtime}: {reason}" if runtime else reason
    return ""


async def _find_way(tried: Probe, traits: EngineTraits, config: ContainersConfig, networks: Networks) -> Reach:
    ways: Sequence[Way] = WAYS if config.reach == "auto" else (config.reach,)
    for way in ways:
        reach = Reach(way, networks)
        for runtime in config.runtimes_read.in_use():
            if reason := await tried.reaches(reach, traits, runtime):
                log.info("way to containers does not work", way=way, runtime=runtime or None, reason=reason)
                break
        else:
            return reach
    raise EngineUnavailable(f"the agent cannot reach its containers (tried: {', '.join(ways)})")
