"""An engine whose containers are plain processes of this machine: for tests of what stands on the engine.

It keeps the engine's promises as `test_engine` states them for both, and nothing more: there are no walls,
no images but the ones that it was given, and no networks.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from agent.containers.engine import (
    Attachment,
    Engine,
    EngineError,
    EngineUnavailable,
    Image,
    Inspection,
    Listed,
    NotFound,
)


class _Fake:
    def __init__(self, name: str, arguments: Mapping[str, Any]) -> None:
        self.id = secrets.token_hex(32)
        self.name = name
        self.arguments = arguments
        self.process: Process | None = None
        self.paused = False
        self.streams: asyncio.StreamWriter | None = None
        self.input: asyncio.StreamReader | None = None
        self.tasks: list[asyncio.Task[None]] = []
        self.signals = 0

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None


class FakeEngine(Engine):
    """Runs ``Entrypoint`` with ``Env``.

    Attributes:
        down: It does not answer.
        delay: Awaited in the middle of each start.
        calls: Every call's name and container, in order.
    """

    def __init__(self, images: Mapping[str, Image] | None = None) -> None:
        super().__init__()
        self.down = False
        self.delay: Callable[[], Any] | None = None
        self.calls: list[tuple[str, str]] = []
        self.present = dict(images or {})
        self._all: dict[str, _Fake] = {}

    async def close(self) -> None:
        for name in list(self._all):
            await self.remove(name)
        await super().close()

    async def image(self, reference: str) -> Image:
        if reference not in self.present:
            raise NotFound(404, f"No such image: {reference}")
        return self.present[reference]

    async def images(self) -> list[str]:
        return sorted(self.present)

    async def pull(
        self, reference: str, progress: Callable[[int, int], None], *, stall: float, credentials: Path | None = None
    ) -> None:
        raise EngineError(404, f"{reference} not found")

    async def create(self, name: str, arguments: Mapping[str, Any]) -> str:
        self._called("create", name)
        if name in self._all:
            raise EngineError(409, f"the name {name} is in use")
        await self.image(arguments["Image"])
        made = self._all[name] = _Fake(name, arguments)
        return made.id

    async def attach(self, container: str, stdin: bool = False) -> Attachment:
        fake = self._find("attach", container)
        ours, theirs = socket.socketpair()
        fake.input, fake.streams = await asyncio.open_connection(sock=theirs)
        return Attachment(*(await asyncio.open_connection(sock=ours)))

    async def start(self, container: str) -> None:
        fake = self._find("start", container)
        if self.delay is not None:
            await self.delay()
        env = dict(line.split("=", 1) for line in fake.arguments.get("Env", []))
        try:
            fake.process = await asyncio.create_subprocess_exec(
                *fake.arguments["Entrypoint"],
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                env=os.environ | env,
                start_new_session=True,
            )
        except OSError as error:
            raise EngineError(400, f"exec: executable file not found: {error}") from None
        fake.tasks = [asyncio.create_task(self._feed(fake)), asyncio.create_task(self._carry(fake))]

    async def inspect(self, container: str) -> Inspection:
        fake = self._find("inspect", container)
        code = fake.process.returncode if fake.process is not None else 0
        return Inspection(
            id=fake.id,
            name=fake.name,
            running=fake.running,
            paused=fake.paused,
            exit_code=128 - code if code and code < 0 else code or 0,
            oom_killed=False,
            pid=fake.process.pid if fake.process is not None and fake.running else 0,
            addresses={},
            ports={},
        )

    async def kill(self, container: str, signal: str) -> None:
        fake = self._find("kill", container)
        fake.signals += 1
        self._send(fake, signal)

    async def pause(self, container: str) -> None:
        fake = self._find("pause", container)
        if fake.paused or not fake.running:
            raise EngineError(409, "it is paused, or does not run")
        self._send(fake, "SIGSTOP")
        fake.paused = True

    async def unpause(self, container: str) -> None:
        fake = self._find("unpause", container)
        if not fake.paused:
            raise EngineError(409, "it is not paused")
        self._send(fake, "SIGCONT")
        fake.paused = False

    async def remove(self, container: str) -> None:
        try:
            fake = self._find("remove", container)
        except NotFound:
            return
        del self._all[fake.name]
        if fake.process is not None:
            self._send(fake, "SIGKILL")
            await fake.process.wait()
        if fake.streams is not None:
            fake.streams.transport.abort()
        for task in fake.tasks:
            task.cancel()
        await asyncio.gather(*fake.tasks, return_exceptions=True)

    async def containers(self, label: str) -> list[Listed]:
        self._called("containers", label)
        found = [Listed(fake.id, fake.name, fake.arguments.get("Labels", {})) for fake in self._all.values()]
        return [
            each for each in found if f"{label.partition('=')[0]}={each.labels.get(label.partition('=')[0])}" == label
        ]

    async def now(self) -> float:
        return 0.0

    async def networks(self, label: str) -> list[Listed]:
        return []

    async def volumes(self, label: str) -> list[Listed]:
        return []

    @contextlib.asynccontextmanager
    async def anew(self) -> AsyncIterator[Engine]:
        yield self

    async def saw_end(self, container: str) -> bool:
        return not next(fake for fake in self._all.values() if fake.id == container).running

    async def signals(self, container: str) -> int | None:
        return next(fake.signals for fake in self._all.values() if fake.id == container)

    def _called(self, call: str, container: str) -> None:
        self.calls.append((call, container))
        if self.down:
            raise EngineUnavailable("the fake engine is down")

    def _find(self, call: str, container: str) -> _Fake:
        self._called(call, container)
        for fake in self._all.values():
            if container in {fake.id, fake.name}:
                return fake
        raise NotFound(404, f"No such container: {container}")

    def _send(self, fake: _Fake, name: str) -> None:
        if fake.process is not None and fake.running:
            # As in a container: what freezes or kills does so to all of it, other signals go to the first process.
            to_all = name in {"SIGSTOP", "SIGCONT", "SIGKILL"}
            (os.killpg if to_all else os.kill)(fake.process.pid, signal.Signals[name])

    async def _feed(self, fake: _Fake) -> None:
        assert fake.process is not None
        assert fake.process.stdin is not None
        try:
            while fake.input is not None and (piece := await fake.input.read(65536)):
                fake.process.stdin.write(piece)
                await fake.process.stdin.drain()
            fake.process.stdin.close()
        except OSError:
            return

    async def _carry(self, fake: _Fake) -> None:
        assert fake.process is not None
        assert fake.process.stdout is not None
        assert fake.process.stderr is not None
        await asyncio.gather(self._frames(fake, 1, fake.process.stdout), self._frames(fake, 2, fake.process.stderr))
        await fake.process.wait()
        if fake.streams is not None:
            fake.streams.close()

    async def _frames(self, fake: _Fake, number: int, stream: asyncio.StreamReader) -> None:
        while piece := await stream.read(65536):
            if fake.streams is not None:
                fake.streams.write(bytes([number, 0, 0, 0]) + len(piece).to_bytes(4, "big") + piece)
