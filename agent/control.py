"""The local control socket: what can be asked of an agent on its own machine, with or without a network.

`agent.control_socket` says what goes over it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog

from agent.assignments import NothingToAbort
from agent.containers.engine import EngineError, EngineUnavailable
from agent.control_socket import ASK_SECONDS, SOCKET, WORK_SECONDS, Command, Reply, address
from agent.status import AttemptStatus, CanaryReport, NodeStatus, Orphan

log = structlog.get_logger()


class Node(Protocol):
    """What is asked: `agent.node.Node`."""

    def status(self) -> NodeStatus:
        """Say how the node is."""

    def figures(self) -> bytes:
        """Give its figures, as the text that Prometheus reads."""

    def drain(self) -> None:
        """Finish what runs and begin nothing new."""

    async def abort(self, task: str) -> list[AttemptStatus]:
        """End what runs for one task, and give it back."""

    async def canary(self) -> CanaryReport:
        """Let a container of our own go the whole way of a task."""

    async def pause(self, seconds: float | None) -> None:
        """Freeze what runs and take nothing new, for so long or until `resume`."""

    async def resume(self) -> None:
        """End that pause."""

    async def gc(self, *, dry_run: bool) -> list[Orphan]:
        """Remove what is left behind, or only list it."""


@asynccontextmanager
async def serving(data_dir: Path, node: Node) -> AsyncIterator[None]:
    """Answer on the socket of a data directory. Without a socket, the node works all the same."""
    conversations: set[asyncio.Task[None]] = set()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio calls this in a task
        conversations.add(task)
        try:
            await _converse(node, reader, writer)
        finally:
            conversations.discard(task)

    server: asyncio.Server | None = None
    try:
        server = await asyncio.start_unix_server(accepted, sock=_listen(data_dir))
    except OSError as error:
        log.warning("no control socket: `fernd agent status` and the like cannot reach this agent", reason=str(error))
    try:
        yield
    finally:
        if server is not None:
            server.close()
        for task in conversations:
            task.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)
        (data_dir / SOCKET).unlink(missing_ok=True)


async def _converse(node: Node, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        async with asyncio.timeout(ASK_SECONDS):
            line = await reader.readline()
        if line:
            writer.write(msgspec.json.encode(await _reply(node, line)) + b"\n")
            async with asyncio.timeout(ASK_SECONDS):
                await writer.drain()
    except (OSError, TimeoutError, ValueError):
        return  # whoever asked is gone, or talks nonsense
    finally:
        writer.close()


async def _reply(node: Node, line: bytes) -> Reply:
    try:
        command = msgspec.json.decode(line, type=Command)
        async with asyncio.timeout(WORK_SECONDS):
            return Reply(answer=await _do(node, command))
    except msgspec.MsgspecError as error:
        return Reply(problem=f"not a command: {error}")
    except TimeoutError:
        return Reply(problem=f"not done within {WORK_SECONDS:g} s")
    except (NothingToAbort, EngineUnavailable, EngineError, OSError) as error:
        return Reply(problem=str(error))
    except Exception:
        log.exception("command failed")
        return Reply(problem="the agent failed; its log says more")


async def _do(node: Node, command: Command) -> Any:
    match command.command:
        case "status":
            return node.status()
        case "metrics":
            return node.figures().decode()
        case "drain":
            node.drain()
            return node.status()
        case "abort":
            return await node.abort(command.task)
        case "canary":
            return await node.canary()
        case "pause":
            await node.pause(command.seconds)
            return node.status()
        case "resume":
            await node.resume()
            return node.status()
        case "gc":
            return await node.gc(dry_run=command.dry_run)


def _listen(data_dir: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX)
    try:
        # One that a crash left. The lock of the data directory is held, so no other agent answers on it.
        (data_dir / SOCKET).unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            with address(data_dir) as name:
                listening.bind(name)
        finally:
            os.umask(before)
    except OSError:
        listening.close()
        raise
    return listening
