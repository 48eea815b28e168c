"""The engine, and the canary: by the agent where one runs, else by the doctor itself."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec

from agent import control_socket
from agent.config import ContainersConfig
from agent.containers.canary import run_canary
from agent.containers.engine import Engine, EngineError, EngineUnavailable, Facts
from agent.containers.footing import find_footing
from agent.containers.networks import Networks
from agent.containers.runtimes import Runtimes
from agent.doctor.findings import Finding
from agent.status import CanaryReport

SECONDS = 20.0
"""For an engine to say what it is."""

FOOTING_SECONDS = 180.0

_START = "start it (`systemctl start docker`), or install it; DOCKER_HOST names one that listens elsewhere"
_RIGHTS = "let the agent's user into the group that the socket belongs to, usually docker"

_RUNTIMES = "name it under `runtimes` in /etc/docker/daemon.json and reload the engine, or correct the setting"
_BOUNDS = "let the runtime make control groups: runsc without --ignore-cgroups"


async def look_at_engine(engine: Engine, runtimes: Runtimes) -> tuple[Finding, Facts | None]:
    """Ask the engine what it is, and whether it has the OCI runtimes that the operator wants."""
    try:
        async with asyncio.timeout(SECONDS):
            facts = await engine.connect()
    except TimeoutError:
        return Finding("engine", "failed", f"it did not answer within {SECONDS:g} s", _START), None
    except (EngineUnavailable, EngineError) as error:
        words = str(error)
        return Finding("engine", "failed", words, _RIGHTS if "ermission denied" in words else _START), None
    if lacking := runtimes.lacking(facts.runtimes):
        return Finding("engine", "failed", lacking, _RUNTIMES), facts
    seen = f"version {facts.version} on {facts.system}, {facts.arch}, cgroup version {facts.cgroup}"
    lacks = [name for name, there in facts.limits.items() if not there]
    if lacks:
        cure = "enable the kernel's controllers for it, and start the engine anew"
        return Finding("engine", "warning", f"{seen}; it cannot limit {', '.join(lacks)}", cure), facts
    return Finding("engine", "ok", seen), facts


async def fly_canary(engine: Engine, facts: Facts | None, config: ContainersConfig, node: str, data: Path) -> Finding:
    """Let the canary go the whole way of a task.

    Args:
        facts: What the engine is; None where it does not answer.
        node: Id of the node, for the labels: what this leaves when it is killed, the agent finds.
        data: The node's data directory, with the agent's control socket.
    """
    try:
        answer = await control_socket.ask(data, control_socket.Command("canary"))
        return _finding(msgspec.convert(answer, CanaryReport), "by the agent that runs here")
    except control_socket.NotRunning:
        pass
    except control_socket.CommandFailed as error:
        return Finding("canary", "failed", str(error), "see the agent's log")
    if facts is None:
        return Finding("canary", "skipped", "there is no engine to run it")
    networks = Networks(engine, node)
    try:
        async with asyncio.timeout(FOOTING_SECONDS):
            footing = await find_footing(engine, facts, config, networks, node)
        runtimes = config.runtimes_read.in_use()
        report = await run_canary(engine, facts.arch, node, footing, runtimes, start_timeout=config.start_timeout)
    except TimeoutError:
        return Finding("canary", "failed", "the engine took too long to run a container", "see the engine's log")
    except (EngineUnavailable, EngineError) as error:
        return Finding("canary", "failed", str(error), "see the engine's log: `journalctl -u docker`")
    finally:
        await _remove(networks)
    return _finding(report, f"by user {os.geteuid()}, since no agent runs here")


async def _remove(networks: Networks) -> None:
    try:
        await networks.remove()
    except EngineUnavailable:
        return  # the finding says that it is away


def _finding(report: CanaryReport, by: str) -> Finding:
    if report.skipped:
        return Finding("canary", "skipped", report.skipped)
    if report.problem:
        cure = "see the log of the engine (`journalctl -u docker`) and of the agent around now"
        return Finding("canary", "failed", f"failed at {report.failed!r}, {by}: {report.problem}", cure)
    steps = ", ".join(f"{name} {took:.0f} ms" for name, took in report.steps.items())
    seen = f"{steps}; reached by {report.reach}, {by}"
    if report.unbounded:
        names = ", ".join(report.unbounded)
        return Finding("canary", "warning", f"{seen}; no limit of memory, CPU or processes holds by {names}", _BOUNDS)
    return Finding("canary", "ok", seen)
