"""The process of `fernd agent`: puts the parts together, hands signals on, and gives the exit code."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import structlog

from agent import capabilities, control, identity, logs
from agent.admission import capacity
from agent.config import AgentConfig
from agent.containers.host import ContainerHost
from agent.invocation import Invocation, Report
from agent.journal import JournalError
from agent.node import Node
from agent.protocol import Offer
from agent.vitals import Vitals

EXIT_FAILED = 1


class NotJoined(Exception):
    """This machine is no node yet; the text says what to do."""


def run(config: AgentConfig, data_dir: Path) -> int:
    """Run the agent until it is told to stop, and give its exit code.

    Raises:
        NotJoined: There is nothing to be: the machine never joined.
        identity.IdentityError: The data directory cannot be used.
    """
    logs.configure(config.log.level, config.log.format)
    with identity.only_one(data_dir):
        known = identity.load_identity(data_dir)
        if known is None:
            raise NotJoined("this machine has not joined yet: fernd agent join URL --token TOKEN")
        credential = identity.load_credential(data_dir)
        return asyncio.run(_run(config, data_dir, known, credential))


async def _run(config: AgentConfig, data_dir: Path, known: identity.Identity, credential: str) -> int:
    log = structlog.get_logger()
    machine = capabilities.measure()
    memory = capacity(config.capacity, machine.cpu_count, machine.mem_size).memory
    vitals = Vitals()
    host = ContainerHost(
        config.containers, known.id, memory, config.images.pull_timeout, data_dir / "marks", vitals=vitals
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
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, node.stop)
    try:
        async with control.serving(data_dir, node):
            await node.run()
    except JournalError as error:
        log.error("the agent cannot run", reason=str(error))  # noqa: TRY400 - a sentence, not a traceback
        return EXIT_FAILED
    except ExceptionGroup:  # logged by the loop that failed
        return EXIT_FAILED
    return 0
