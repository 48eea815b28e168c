"""The Docker Engine as anyone can use it, for what fernd is compared with: nothing here goes through fernd.

Only what a container is made of, and the way into its network, are fernd's own, so that both sides have the same.
"""

from __future__ import annotations

import asyncio
import io
import os
import secrets
import tarfile
import time
from collections.abc import Mapping
from operator import sub
from types import TracebackType
from typing import Any, Self

import aiohttp

from agent.containers.reach import Door
from agent.containers.spec import PORT, ContainerSpec, EngineTraits, arguments, server_environment
from benches.cloud import ECHO, ECHO_IMAGE

SOCKET = "/var/run/docker.sock"


class Bare:
    """A container that was started by hand.

    Attributes:
        door: How its server is reached.
        steps: Seconds that each step of its start took.
    """

    def __init__(self, name: str, door: Door, steps: Mapping[str, float]) -> None:
        self.name = name
        self.door = door
        self.steps = steps

    async def client(self) -> aiohttp.ClientSession:
        """Make an HTTP client whose one connection is kept open."""
        made = await self.door.socket()
        connector = aiohttp.TCPConnector(socket_factory=lambda _: made, limit=1, happy_eyeballs_delay=None)
        return aiohttp.ClientSession(f"http://127.0.0.1:{PORT}", connector=connector)


class DockerEngine:
    """The engine at its usual socket, with a connection for each call under way."""

    def __init__(self) -> None:
        self._http = aiohttp.ClientSession("http://engine", connector=aiohttp.UnixConnector(SOCKET, limit=0))
        self._made: list[str] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(self.remove(name) for name in list(self._made)))
        await self._http.close()

    async def call(self, method: str, path: str, content: object = None, **query: str) -> Any:
        """Call the Engine API, and give what it answers."""
        async with self._http.request(method, path, json=content, params=query) as response:
            answer = await response.json() if "json" in response.content_type else await response.read()
            if response.status >= 400:
                raise RuntimeError(f"{method} {path} answered {response.status}: {answer!r}")
            return answer

    async def build(self, tag: str, files: Mapping[str, bytes]) -> None:
        """Build an image of some files, one of which is the Dockerfile."""
        context = io.BytesIO()
        with tarfile.open(fileobj=context, mode="w") as tar:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        async with self._http.post("/build", data=context.getvalue(), params={"t": tag, "rm": "1"}) as response:
            log = await response.text()
        if response.status >= 400 or '"error"' in log:
            raise RuntimeError(f"the image {tag} was not built: {log[-500:]}")

    async def build_echo(self) -> str:
        """See to it that the image of the echo server is there, and name it."""
        await self.build(ECHO_IMAGE, {file.name: file.read_bytes() for file in ECHO.iterdir() if file.is_file()})
        return ECHO_IMAGE

    async def traits(self) -> EngineTraits:
        """Learn what the flags of a container depend on."""
        info = await self.call("GET", "/info")
        return EngineTraits(cgroup=int(info.get("CgroupVersion") or 1), cpus=info["NCPU"], init=True)

    async def start(self, traits: EngineTraits, image: str = ECHO_IMAGE, memory: int = 256) -> Bare:
        """Create and start a container with the flags that fernd gives, and wait until its server accepts."""
        name = f"fernd-bench-{secrets.token_hex(6)}"
        spec = ContainerSpec(
            image=image,
            mode="http",
            node="bench",
            function="bench",
            revision="bench",
            contract_env=server_environment(),
            memory=memory,
        )
        self._made.append(name)
        marks = [time.perf_counter()]
        await self.call("POST", "/containers/create", arguments(spec, traits), name=name)
        marks.append(time.perf_counter())
        await self.call("POST", f"/containers/{name}/start")
        marks.append(time.perf_counter())
        found = await self.call("GET", f"/containers/{name}/json")
        marks.append(time.perf_counter())
        door = Door("127.0.0.1", PORT, namespace=os.open(f"/proc/{found['State']['Pid']}/ns/net", os.O_RDONLY))
        while not await door.accepts():
            await asyncio.sleep(0.001)
        marks.append(time.perf_counter())
        steps = dict(zip(("create", "start", "inspect", "until ready"), map(sub, marks[1:], marks), strict=False))
        return Bare(name, door, steps)

    async def remove(self, name: str) -> None:
        """Remove a container."""
        self._made.remove(name)
        await self.call("DELETE", f"/containers/{name}", force="1", v="1")
