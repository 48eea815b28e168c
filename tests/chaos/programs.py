"""The programs under test, as processes of their own: started, killed, frozen, and heard line by line."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

START_SECONDS = 60.0
END_SECONDS = 60.0
LINE_BYTES = 4 * 1024 * 1024

Line = dict[str, Any]


class Program:
    """One `fernd` command that can be started again and again.

    Every line that it logs is kept in `lines` and in a file. Who awaits a line is told the moment that it is
    read, and may have something done in that moment: that is how a process dies at a step of a task's life.

    Attributes:
        kind: What it is, in the words of the table.
        lines: All lines of all starts.
    """

    kind = "program"

    def __init__(self, name: str, arguments: list[str], environ: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.lines: list[Line] = []
        self._arguments = arguments
        self._environ = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith("FERND_") and key not in {"DOCKER_HOST", "STATE_DIRECTORY"}
        } | dict(environ)
        self._file = log
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._watches: list[tuple[Callable[[Line], bool], asyncio.Future[Line], Callable[[], object]]] = []

    @property
    def runs(self) -> bool:
        """It was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start it. Use `logged` to wait for its being ready."""
        assert not self.runs
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "agent.cli",
            *self._arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=self._environ,
            limit=LINE_BYTES,
        )
        self._reading = asyncio.create_task(self._read(self._process))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self.runs:
            assert self._process is not None
            self._process.send_signal(number)

    async def ended(self, seconds: float = END_SECONDS) -> int:
        """Wait for its end and for its last line; give its exit code, negative for a signal."""
        assert self._process is not None
        assert self._reading is not None
        async with asyncio.timeout(seconds):
            code = await self._process.wait()
            await self._reading
        return code

    async def kill(self) -> None:
        """Kill -9, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        await self.ended()

    async def stop(self) -> int:
        """SIGTERM, and wait until it is gone; give its exit code."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def close(self) -> None:
        """End it, whatever state it is in."""
        if self.runs:
            self.signal(signal.SIGCONT)
            await self.kill()

    def when(self, event: str, then: Callable[[], object] = lambda: None, **values: object) -> asyncio.Future[Line]:
        """Give the next line of an event with these values, and do something the moment that it is read."""
        found: asyncio.Future[Line] = asyncio.get_running_loop().create_future()

        def matches(line: Line) -> bool:
            return line.get("event") == event and all(line.get(key) == value for key, value in values.items())

        self._watches.append((matches, found, then))
        return found

    async def logged(self, event: str, seconds: float = START_SECONDS, **values: object) -> Line:
        """Wait for the next line of an event."""
        async with asyncio.timeout(seconds):
            return await self.when(event, lambda: None, **values)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        with self._file.open("ab") as file:
            while raw := await process.stderr.readline():
                file.write(raw)
                try:
                    line: Line = json.loads(raw)
                except ValueError:
                    # What a program writes past its log is a crash, or a warning of the interpreter.
                    line = {"level": "error", "event": raw.decode("utf-8", "replace").rstrip()}
                self.lines.append(line)
                self._tell(line)

    def _tell(self, line: Line) -> None:
        for watch in list(self._watches):
            matches, found, then = watch
            if found.done():
                self._watches.remove(watch)
            elif matches(line):
                self._watches.remove(watch)
                then()
                found.set_result(line)


class Dispatcher(Program):
    """`fernd dispatcher` on a port that stays the same."""

    kind = "dispatcher"

    def __init__(self, directory: Path, environ: Mapping[str, str]) -> None:
        self.directory = directory / "dispatcher"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        arguments = ["dispatcher", "--data-dir", str(self.directory), "--listen", f"127.0.0.1:{self.port}"]
        super().__init__("dispatcher", arguments, environ, directory / "dispatcher.log")

    async def start(self) -> None:
        """Start it and wait until it listens."""
        await super().start()
        await self.logged("listening")

    @property
    def token(self) -> str:
        """The token that its first start wrote."""
        return (self.directory / "api-token").read_text().strip()


class Agent(Program):
    """`fernd agent` with a data directory of its own."""

    kind = "agent"

    def __init__(self, name: str, directory: Path, environ: Mapping[str, str], data_dir: Path | None = None) -> None:
        self.directory = data_dir or directory / name
        super().__init__(name, ["agent", "--data-dir", str(self.directory)], environ, directory / f"{name}.log")

    async def join(self, url: str, token: str) -> None:
        """Become a node of an account."""
        command = [sys.executable, "-m", "agent.cli", "agent", "join", url, "--token", token]
        process = await asyncio.create_subprocess_exec(
            *command, "--data-dir", str(self.directory), stdout=asyncio.subprocess.DEVNULL, env=self._environ
        )
        async with asyncio.timeout(START_SECONDS):
            assert await process.wait() == 0

    @property
    def node_id(self) -> str:
        """The id that it joined with."""
        return str(json.loads((self.directory / "node.json").read_text())["id"])

    async def start_ready(self) -> None:
        """Start it and wait until it takes work."""
        await self.start()
        await self.logged("node is ready")


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
