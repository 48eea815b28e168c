"""What it takes to run an invocation in a test."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

from agent.config import ContainersConfig
from agent.containers.host import ContainerHost
from agent.containers.output import Stream
from agent.invocation import GaveBack, Invocation, Ran
from agent.protocol import Headers, Lease, Offer, Phase, Revision
from tests.images import reference

IMAGE = reference("misbehave")
ENTRYPOINT_IMAGE = reference("entrypoint")
NO_COMMAND_IMAGE = reference("no-command")
WRONG_COMMAND_IMAGE = reference("wrong-command")
RESULT_LIMIT = 4 * 1024 * 1024

_numbers = itertools.count(1)


class running_host:  # noqa: N801 - reads as the function that it is
    """Starts a host for a while, with a node id of its own."""

    def __init__(
        self, memory: int = 2048, node_id: str | None = None, marks: Path | None = None, **config: object
    ) -> None:
        settings: dict[str, object] = {"start_timeout": 3.0, "stop_grace_max": 1.0, **config}
        containers = ContainersConfig(**settings)  # type: ignore[arg-type]
        self.host = ContainerHost(containers, node_id or str(uuid.uuid4()), memory, marks=marks)

    async def __aenter__(self) -> ContainerHost:
        try:
            await self.host.start()
        except BaseException:
            await self.host.stop()
            raise
        return self.host

    async def __aexit__(self, *_: object) -> None:
        await self.host.stop()


class Heard:
    """A report that keeps everything, and lets a test wait for it."""

    def __init__(self) -> None:
        self.phases: list[Phase] = []
        self.bytes_pulled: list[tuple[int, int]] = []
        self.percents: list[tuple[int, str]] = []
        self.lines: list[tuple[Stream, bytes]] = []
        self._news = asyncio.Event()

    def phase(self, phase: Phase) -> None:
        self.phases.append(phase)
        self._news.set()

    def pulled(self, done: int, total: int) -> None:
        self.bytes_pulled.append((done, total))
        self._news.set()

    def percent(self, percent: int, message: str) -> None:
        self.percents.append((percent, message))
        self._news.set()

    def line(self, stream: Stream, line: bytes) -> None:
        self.lines.append((stream, line))
        self._news.set()

    async def until(self, holds: Callable[[Heard], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds(self):
                self._news.clear()
                await self._news.wait()


def object_id() -> str:
    return f"{int(time.time()):08x}{secrets.token_hex(8)}"


def revision(**changes: object) -> Revision:
    """A revision of a function of its own."""
    settings: dict[str, object] = {"function": object_id(), "number": 1, "image": IMAGE, "mem_size": 64, **changes}
    return Revision(**settings)  # type: ignore[arg-type]


def offer(revision: Revision, query: str = "", headers: Headers | None = None) -> Offer:
    lease = Lease(object_id(), 1, secrets.token_bytes(16))
    return Offer(number=next(_numbers), lease=lease, revision=revision, query=query, headers=headers or [])


class Caller:
    """Runs invocations on a host."""

    def __init__(self, host: ContainerHost, spool: Path) -> None:
        self.host = host
        self.spool = spool

    def prepare(
        self,
        revision: Revision,
        query: str = "",
        body: bytes | Path = b"",
        headers: Headers | None = None,
        heard: Heard | None = None,
    ) -> Invocation:
        return Invocation(offer(revision, query, headers), body, self.host, heard or Heard(), self.spool, RESULT_LIMIT)

    async def __call__(
        self,
        revision: Revision,
        query: str = "",
        body: bytes | Path = b"",
        headers: Headers | None = None,
        heard: Heard | None = None,
    ) -> Ran:
        result = await self.prepare(revision, query, body, headers, heard).run()
        assert isinstance(result, Ran), result
        return result

    async def gives_back(self, revision: Revision, query: str = "") -> GaveBack:
        result = await self.prepare(revision, query).run()
        assert isinstance(result, GaveBack), result
        return result

    async def containers_of(self, revision: Revision) -> list[str]:
        """Names of the containers that the engine has of a function, when removals are done."""
        await self.host.pool.settled()
        return [found.name for found in await self.host.engine.containers(f"fernd.function={revision.function}")]


async def eventually(holds: Callable[[], Awaitable[bool]], within: float = 10.0) -> None:
    """Wait for what must come true, and fail where it does not."""
    async with asyncio.timeout(within):
        while not await holds():
            await asyncio.sleep(0.02)
