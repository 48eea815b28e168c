"""What the benches measure: `fernd dispatcher` and `fernd agent` as processes of their own, on the real engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import docker

ECHO = Path(__file__).parent / "echo"
ECHO_IMAGE = "fernd-bench-echo:latest"
LABEL = "fernd.bench"
START_SECONDS = 60.0

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Process:
    """One `fernd` command that runs."""

    def __init__(
        self, arguments: list[str], environ: Mapping[str, str], log: Path, python: str = sys.executable
    ) -> None:
        self._log = log
        clean = {key: value for key, value in os.environ.items() if not key.startswith("FERND_")}
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [python, "-P", "-m", "agent.cli", *arguments], stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                env={**clean, **environ},
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def cpu_seconds(self) -> float:
        """CPU time that it has used, user and system, with all its threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def resident_mib(self) -> float:
        """Memory that it holds now."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE / 2**20

    async def logged(self, event: str) -> None:
        """Wait until it has logged an event."""
        wanted = f'"event":"{event}"'.encode()
        deadline = time.monotonic() + START_SECONDS
        while wanted not in self._log.read_bytes():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no {event!r} in {self._log}:\n{self._log.read_text()[-2000:]}")
            await asyncio.sleep(0.05)

    def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        self.end(signal.SIGTERM)

    def end(self, number: signal.Signals) -> None:
        """Send it a signal that ends it, and wait for that; nothing happens where it has ended."""
        self._process.send_signal(number)
        self._process.wait(START_SECONDS)


class Cloud:
    """A dispatcher and one node that has joined it.

    Attributes:
        session: A client with the account's token.
        node: The agent's data directory.
    """

    def __init__(
        self, url: str, dispatcher: Process, agent: Process, session: aiohttp.ClientSession, node: Path
    ) -> None:
        self.url = url
        self.dispatcher = dispatcher
        self.agent = agent
        self.session = session
        self.node = node

    async def create_function(self, name: str, image: str, **more: Any) -> str:
        """Make a function and give its id."""
        document = {"name": name, "type": "DOCKER", "image": image, **more}
        async with self.session.post(f"{self.url}/v1/function", json=document) as answer:
            content = await answer.json()
            if answer.status != 201:
                raise RuntimeError(f"function not made: {content}")
            return str(content["id"])

    async def require(self, function: str, **requirements: Any) -> None:
        """Let a function ask something of its nodes."""
        url = f"{self.url}/v1/function/{function}/capabilities"
        async with self.session.post(url, json=requirements) as answer:
            if answer.status != 204:
                raise RuntimeError(f"requirements not taken: {await answer.text()}")

    async def invoke(self, function: str, body: bytes = b"{}") -> bytes:
        """Run a task, and give its result when it is there."""
        headers = {"Prefer": "wait=60", "Content-Type": "application/json"}
        async with self.session.post(f"{self.url}/v1/task/{function}", data=body, headers=headers) as answer:
            content = await answer.read()
            if answer.status != 200 or "X-Task-Id" not in answer.headers:
                raise RuntimeError(f"the task was not answered: {answer.status} {content[:300]!r}")
            return content

    def warm(self) -> list[str]:
        """List the revisions of which the node has an idle container, as `fernd agent status` shows them."""
        command = [sys.executable, "-m", "agent.cli", "agent", "status", "--json", "--data-dir", str(self.node)]
        status = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        return list(status["warm"])


@contextlib.asynccontextmanager
async def cloud(
    agent_environ: Mapping[str, str] | None = None, agent_python: str = sys.executable
) -> AsyncIterator[Cloud]:
    """Start a dispatcher and an agent with their default settings; both end with the context.

    Args:
        agent_python: Of the environment that the agent runs in.
    """
    with tempfile.TemporaryDirectory(prefix="fernd-bench-") as name, contextlib.ExitStack() as running:
        directory = Path(name)
        url = f"http://127.0.0.1:{free_port()}"
        data = directory / "dispatcher"
        dispatcher = Process(
            ["dispatcher", "--data-dir", str(data), "--listen", url.removeprefix("http://")],
            {},
            directory / "dispatcher.log",
        )
        running.callback(dispatcher.stop)
        await dispatcher.logged("listening")
        token = (data / "api-token").read_text().strip()
        many = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}, connector=many) as session:
            async with session.post(f"{url}/v1/node/join-token") as answer:
                join_token = (await answer.json())["token"]
            command = [sys.executable, "-m", "agent.cli", "agent", "join", url, "--token", join_token]
            subprocess.run([*command, "--data-dir", directory / "node"], check=True, capture_output=True)
            agent = Process(
                ["agent", "--data-dir", str(directory / "node")],
                agent_environ or {},
                directory / "agent.log",
                agent_python,
            )
            running.callback(agent.stop)
            await agent.logged("node is ready")
            yield Cloud(url, dispatcher, agent, session, directory / "node")


def build_echo(client: docker.DockerClient) -> str:
    """Build the image of the echo function and give its name."""
    client.images.build(path=str(ECHO), tag=ECHO_IMAGE, network_mode="none", rm=True, forcerm=True)
    return ECHO_IMAGE


@contextlib.contextmanager
def direct_container(client: docker.DockerClient, image: str) -> Iterator[str]:
    """Run the function without fernd, within the limits that fernd sets, and give its URL.

    It is spoken to at its address on the engine's bridge: of the ways that a user has, the fastest.
    """
    container = client.containers.run(
        image, detach=True, labels={LABEL: "direct"}, nano_cpus=10**9, mem_limit="256m", memswap_limit="256m"
    )
    try:
        container.reload()
        (network,) = container.attrs["NetworkSettings"]["Networks"].values()
        _until_open(network["IPAddress"], 8080)
        yield f"http://{network['IPAddress']}:8080"
    finally:
        container.remove(force=True, v=True)


def _until_open(host: str, port: int) -> None:
    """Wait until somebody listens there."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
