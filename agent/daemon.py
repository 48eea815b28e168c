"""The process of `fernd agent`: puts the parts together, hands signals on, and gives the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import structlog

from agent import capabilities, control, heap, identity, logs
from agent import join as joining
from agent.admission import capacity
from agent.config import AgentConfig
from agent.containers.host import ContainerHost
from agent.invocation import Invocation, Report
from agent.journal import JournalError
from agent.node import Node
from agent.protocol import Offer
from agent.reload import LIVE, changed
from agent.service import Reporter
from agent.settings import SettingsError, host_and_port
from agent.systemd import ServiceManager
from agent.vitals import Vitals

EXIT_FAILED = 1


class NotJoined(Exception):
    """This machine is no node yet; the text says what to do."""


class DispatcherAway(Exception):
    """This machine could join, but no dispatcher answers."""


def run(config: AgentConfig, data_dir: Path, read_again: Callable[[], AgentConfig]) -> int:
    """Run the agent until it is told to stop, and give its exit code.

    Args:
        read_again: Reads the settings anew; raises `SettingsError` where they are wrong.

    Raises:
        NotJoined: There is nothing to be: the machine never joined.
        DispatcherAway: It would join if there were a dispatcher.
        identity.IdentityError: The data directory cannot be used.
    """
    logs.configure(config.log.level, config.log.format)
    # On SIGABRT, which a watchdog sends, the process says where each of its threads stands.
    faulthandler.enable()
    with identity.only_one(data_dir):
        known = identity.load_identity(data_dir) or _join(config, data_dir)
        credential = config.node.credential or identity.load_credential(data_dir)
        return asyncio.run(_run(config, data_dir, known, credential, read_again))


def _join(config: AgentConfig, data_dir: Path) -> identity.Identity:
    """Join with the token of the settings, if there is one."""
    if not (config.node.join_token and config.dispatcher.urls):
        raise NotJoined("this machine has not joined yet: fernd agent join URL --token TOKEN")
    try:
        return asyncio.run(
            joining.join(config.dispatcher.urls, config.node.join_token, data_dir, config.node.description)
        )
    except joining.Unreachable as error:
        raise DispatcherAway(str(error)) from None
    except joining.Refused as error:
        raise NotJoined(f"the dispatcher does not let this machine join: {error}") from None


async def _run(
    config: AgentConfig,
    data_dir: Path,
    known: identity.Identity,
    credential: str,
    read_again: Callable[[], AgentConfig],
) -> int:
    log = structlog.get_logger()
    machine = capabilities.measure()
    memory = capacity(config.capacity, machine.cpu_count, machine.mem_size).memory
    vitals = Vitals()
    host = ContainerHost(
        config.containers,
        known.id,
        memory,
        config.images,
        data_dir / "marks",
        pulled=data_dir / "images.json",
        vitals=vitals,
    )

    def begin(offer: Offer, body: bytes | Path, report: Report, result_limit: int, readopt: bool) -> Invocation:
        return Invocation(offer, body, host, report, data_dir / "bodies", result_limit, readopt=readopt)

    node = Node(
        config,
        data_dir,
        node_id=known.id,
        credential=credential,
        dispatchers=config.dispatcher.urls or known.dispatchers,
        machine=machine,
        host=host,
        ask_engine=host.image_store.refresh,
        begin=begin,
        vitals=vitals,
    )
    manager = ServiceManager(os.environ)
    reporter = Reporter(manager, node, vitals.stalled)

    def reload() -> None:
        nonlocal config
        manager.reloading()
        config = _reload(config, read_again, node, host)
        reporter.reloaded()

    def stop() -> None:
        node.stop()
        reporter.look()  # at once: the service manager's own time for a stop counts from now

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, reload)
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stop)
    heap.settle()
    try:
        async with _reporting(reporter, manager), control.serving(data_dir, node), _figures(config, node):
            await node.run()
    except JournalError as error:
        log.error("the agent cannot run", reason=str(error))  # noqa: TRY400 - a sentence, not a traceback
        return EXIT_FAILED
    except ExceptionGroup:  # logged by the loop that failed
        return EXIT_FAILED
    return 0


@contextlib.asynccontextmanager
async def _reporting(reporter: Reporter, manager: ServiceManager) -> AsyncIterator[None]:
    """Keep the service manager informed, if there is one that wants to be."""
    task = asyncio.create_task(reporter.run(), name="service manager") if manager.listens else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()
            await asyncio.wait([task])


@contextlib.asynccontextmanager
async def _figures(config: AgentConfig, node: Node) -> AsyncIterator[None]:
    """Let Prometheus read the node's figures, where the settings want it."""
    if not config.metrics.listen:
        yield
        return
    from agent import metrics_port  # noqa: PLC0415 - see there

    async with metrics_port.serving(*host_and_port(config.metrics.listen), node.figures):
        yield


def _reload(old: AgentConfig, read_again: Callable[[], AgentConfig], node: Node, host: ContainerHost) -> AgentConfig:
    """Read the settings again and go by those that can change while the agent runs."""
    log = structlog.get_logger()
    try:
        new = read_again()
    except SettingsError as error:
        log.error("settings are wrong, the old ones stay", problems=error.problems)  # noqa: TRY400 - a sentence
        return old
    logs.set_level(new.log.level)
    node.give_time_to_finish(new.stop.grace_period)
    node.go_by(new.availability)
    host.keep_warm(new.containers.idle_seconds, new.containers.warm_limit)
    different = changed(old, new)
    log.info("settings were read again", changed=sorted(different & LIVE), need_restart=sorted(different - LIVE))
    return new
