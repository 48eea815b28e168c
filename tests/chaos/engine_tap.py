"""A socket between an agent and the engine that counts what functions do, whatever becomes of the agent.

A function writes a line each time that it runs (see `workload`). The agent reads its containers' output over
attached streams; these pass through here, and the tap goes on reading the engine's side of a stream when
the agent's side is gone. So an execution is counted also where nobody lives to report it. The tap is also
the place where an engine goes away or falls silent for one agent alone.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

RAN = re.compile(rb"ran ([0-9a-f]{24}) ([0-9]+) ([0-9a-f]{32})\n")
RAN_BYTES = 80

_ATTACH = re.compile(r"POST \S*/containers/[^/]+/attach[? ]")
_CREATE = re.compile(r"POST \S*/containers/create[? ]")
PIECE = 64 * 1024


@dataclass(frozen=True)
class Execution:
    """One run of a function.

    Attributes:
        nonce: Random, made by the function for this run, and part of its answer.
        at: Monotonic seconds when it was seen.
        agent: Name of the agent whose tap saw it.
    """

    task: str
    attempt: int
    nonce: str
    at: float
    agent: str


@dataclass
class Executions:
    """Everything that ran, as seen by all taps of a world."""

    seen: dict[str, Execution] = field(default_factory=dict)
    job_containers: dict[str, int] = field(default_factory=dict)
    """Containers that the engine was asked to make for each job: an upper bound of its runs."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def of(self, task: str) -> list[Execution]:
        """List the runs of a task."""
        return [execution for execution in self.seen.values() if execution.task == task]

    def add(self, execution: Execution) -> None:
        """Count a run, once: a stream that is attached again repeats what it said."""
        if execution.nonce not in self.seen:
            self.seen[execution.nonce] = execution
            self._changed.set()

    def read(self, text: bytes, agent: str) -> None:
        """Count the runs that functions tell of."""
        for found in RAN.finditer(text):
            task, attempt, nonce = (group.decode() for group in found.groups())
            self.add(Execution(task, int(attempt), nonce, time.monotonic(), agent))

    async def ran(self, task: str, times: int = 1, seconds: float = 60.0) -> Execution:
        """Wait until a task has run so often, and give the last run."""
        async with asyncio.timeout(seconds):
            while len(found := self.of(task)) < times:
                self._changed.clear()
                await self._changed.wait()
        return found[-1]


class EngineTap:
    """A unix socket in front of the engine's.

    Attributes:
        docker_host: Value of ``DOCKER_HOST`` for the agent.
    """

    def __init__(self, agent: str, socket: Path, engine: str, executions: Executions) -> None:
        self.docker_host = f"unix://{socket}"
        self._agent = agent
        self._socket = socket
        self._engine = engine
        self._executions = executions
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._answers = asyncio.Event()
        self._answers.set()

    async def start(self) -> None:
        """Listen."""
        self._socket.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self._socket)

    async def close(self) -> None:
        """Stop listening and let go of every connection."""
        self.vanish()
        for connection in list(self._open):
            connection.cancel()
        if self._open:
            await asyncio.wait(list(self._open))

    def vanish(self) -> None:
        """The engine's socket is gone, and every connection with it; functions run on. `start` brings it back."""
        assert self._server is not None
        self._server.close()
        self._socket.unlink(missing_ok=True)
        for writer in self._open.values():
            writer.transport.abort()

    def hang(self) -> None:
        """The engine takes requests and answers none."""
        self._answers.clear()

    def answer(self) -> None:
        """End `hang`."""
        self._answers.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        far: asyncio.StreamWriter | None = None
        try:
            far_reader, far = await asyncio.open_unix_connection(self._engine)
            attached = asyncio.Event()
            requests = asyncio.create_task(self._requests(reader, far, attached))
            try:
                await self._answers_back(far_reader, writer, attached)
            finally:
                requests.cancel()
                await asyncio.wait([requests])
        except (OSError, asyncio.CancelledError):
            pass  # whichever side ended it, both end
        finally:
            self._open.pop(task)
            for end in (writer, far):
                if end is not None:
                    end.transport.abort()

    async def _requests(self, reader: asyncio.StreamReader, far: asyncio.StreamWriter, attached: asyncio.Event) -> None:
        """Pass requests on one by one, so that an attach is known from what comes after it."""
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await self._answers.wait()
                text = head.decode("latin-1")
                length = re.search(r"(?im)^content-length: *(\d+)", text)
                body = await reader.readexactly(int(length[1])) if length else b""
                if _CREATE.match(text):
                    self._note_job(body)
                if _ATTACH.match(text):
                    attached.set()
                far.write(head + body)
                if attached.is_set() or re.search(r"(?im)^transfer-encoding: *chunked", text):
                    break  # no further request comes this way: what follows is a stream
            while piece := await reader.read(PIECE):
                far.write(piece)
                await far.drain()
            far.write_eof()
            return
        if not attached.is_set():
            far.transport.abort()

    async def _answers_back(
        self, far: asyncio.StreamReader, writer: asyncio.StreamWriter, attached: asyncio.Event
    ) -> None:
        tail = b""
        listens = True
        while piece := await far.read(PIECE):
            text = tail + piece  # of an attached stream, or of a log that is read later
            self._executions.read(text, self._agent)
            tail = text[-RAN_BYTES:]
            if listens:
                try:
                    await self._answers.wait()
                    writer.write(piece)
                    await writer.drain()
                except OSError:
                    if not attached.is_set():
                        raise
                    listens = False  # the agent is gone, and its function is still to be heard
        if listens:
            with suppress(OSError):
                writer.write_eof()

    def _note_job(self, body: bytes) -> None:
        for variable in json.loads(body).get("Env") or []:
            name, _, value = variable.partition("=")
            if name == "TASK_ID":
                counts = self._executions.job_containers
                counts[value] = counts.get(value, 0) + 1
