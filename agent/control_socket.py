"""What goes over the local control socket, and how to ask.

``control.sock`` in the data directory, for the owner of the agent's process alone. One JSON document a
line: ``{"command": "status"}`` is answered by ``{"answer": …}``, or by ``{"problem": "a sentence"}``.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

SOCKET = "control.sock"

ASK_SECONDS = 10.0
"""For whoever connects to say what it wants, and to read the answer."""

WORK_SECONDS = 120.0
"""For the agent to do it."""

ANSWER_LIMIT = 16 * 1024 * 1024


class NotRunning(Exception):
    """No agent answers; the text is a sentence."""


class CommandFailed(Exception):
    """The agent answers that it could not do it; the text says why."""


class Command(Struct, rename="camel", forbid_unknown_fields=True):
    """One request. `task` is of ``abort``, `dry_run` of ``gc``, `seconds` of ``pause``."""

    command: Literal["status", "metrics", "drain", "abort", "pause", "resume", "gc", "canary"]
    task: str = ""
    dry_run: bool = False
    seconds: float | None = None


class Reply(Struct, omit_defaults=True):
    """The answer to a request, or why there is none."""

    answer: Any = None
    problem: str = ""


async def ask(data_dir: Path, command: Command) -> Any:
    """Ask the agent of a data directory.

    Raises:
        NotRunning: There is none, or it does not answer.
        CommandFailed: It could not do it.
    """
    nobody = NotRunning(f"no agent runs with {data_dir}")
    connection = socket.socket(socket.AF_UNIX)
    connection.setblocking(False)
    try:
        async with asyncio.timeout(ASK_SECONDS + WORK_SECONDS):
            with address(data_dir) as name:
                await asyncio.get_running_loop().sock_connect(connection, name)
            reader, writer = await asyncio.open_unix_connection(sock=connection, limit=ANSWER_LIMIT)
            writer.write(msgspec.json.encode(command) + b"\n")
            await writer.drain()
            line = await reader.readline()
            writer.close()
        reply = msgspec.json.decode(line, type=Reply)
    except PermissionError:
        raise NotRunning(f"the agent of {data_dir} belongs to another user") from None
    except (OSError, TimeoutError, ValueError):
        raise nobody from None
    finally:
        connection.close()
    if reply.problem:
        raise CommandFailed(reply.problem)
    return reply.answer


@contextmanager
def address(data_dir: Path) -> Iterator[str]:
    """Give an address of the socket that fits into the 107 bytes that the system has for it."""
    path = str(data_dir / SOCKET)
    directory = None
    if len(path.encode()) > 100:
        with suppress(OSError):
            directory = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield path if directory is None else f"/proc/self/fd/{directory}/{SOCKET}"
    finally:
        if directory is not None:
            os.close(directory)
