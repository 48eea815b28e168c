"""What the engine says, as frozen values, and the three ways in which it fails."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from msgspec import Struct


class EngineUnavailable(Exception):
    """The engine does not answer. What became of the call is not known."""


class NotAsked(EngineUnavailable):
    """No connection to the engine could be made: it has heard nothing of the call."""


class EngineError(Exception):
    """The engine answered that it will not.

    Attributes:
        status: Its HTTP status; 0 where the error came within a stream.
        message: Its words. They may name paths of this machine.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class NotFound(EngineError):
    """There is no such container, image or network."""


def failure_of(error: BaseException) -> Literal["refused", "away"] | None:
    """Say which failure of a call an exception is. That something is not there is an answer."""
    if isinstance(error, EngineUnavailable):
        return "away"
    return "refused" if isinstance(error, EngineError) and not isinstance(error, NotFound) else None


class Facts(Struct, frozen=True):
    """What the engine is.

    Attributes:
        arch: As the kernel names it, such as ``x86_64``.
        cgroup: Version of the kernel's control groups, 1 or 2.
        cpus: CPUs of the engine's machine.
        runtimes: Names of the OCI runtimes that it knows.
        default_runtime: The one of them that it uses where nobody names one.
        root: Directory of its images, on its own machine.
        limits: What it can bound a container in, and whether it can.
    """

    version: str
    arch: str
    system: str
    cgroup: int
    cpus: int
    runtimes: tuple[str, ...]
    default_runtime: str = ""
    root: str = ""
    limits: Mapping[str, bool] = {}


class Image(Struct, frozen=True):
    """What an image says of itself. `volumes` are the paths that it would have volumes for."""

    id: str
    user: str
    volumes: tuple[str, ...]


class Inspection(Struct, frozen=True):
    """How a container stands.

    Attributes:
        running: It has not ended; also true while it is paused.
        pid: Its first process as the engine's machine numbers it; 0 when it does not run.
        addresses: Network name to the container's address there.
        ports: Port inside to the port of the host that leads to it.
        memory: MiB that it may have.
        network: The network that it was made for.
        started: When it was started, by the engine's clock in epoch seconds; 0 if never.
        finished: When it ended, likewise; 0 while it runs.
    """

    id: str
    name: str
    running: bool
    paused: bool
    exit_code: int
    oom_killed: bool
    pid: int
    addresses: Mapping[str, str]
    ports: Mapping[int, int]
    labels: Mapping[str, str] = {}
    image: str = ""
    memory: int = 0
    network: str = ""
    runtime: str = ""
    privileged: bool = False
    started: float = 0.0
    finished: float = 0.0


class Listed(Struct, frozen=True):
    """A container, network or volume as a list shows it.

    Attributes:
        created: By the engine's clock in epoch seconds; 0 where it is not known.
    """

    id: str
    name: str
    labels: Mapping[str, str]
    created: float = 0.0


def seconds_of(text: str) -> float:
    """Read a time as the engine writes it, with up to nine digits after the point; 0 where it stands for none."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)", text)
    if match is None or text.startswith("0001"):
        return 0.0
    return datetime.fromisoformat(match[1] + match[3].replace("Z", "+00:00")).timestamp() + float(match[2] or 0)


def inspection_of(found: Mapping[str, Any]) -> Inspection:
    """Read what the engine says of a container."""
    state, host = found["State"], found["HostConfig"]
    settings = found.get("NetworkSettings") or {}
    return Inspection(
        id=found["Id"],
        name=found["Name"].lstrip("/"),
        running=state["Running"],
        paused=state["Paused"],
        exit_code=state["ExitCode"],
        oom_killed=state["OOMKilled"],
        pid=state["Pid"],
        addresses={
            name: network["IPAddress"]
            for name, network in (settings.get("Networks") or {}).items()
            if network.get("IPAddress")
        },
        ports={
            int(inside.partition("/")[0]): int(outside[0]["HostPort"])
            for inside, outside in (settings.get("Ports") or {}).items()
            if outside
        },
        labels=dict(found["Config"].get("Labels") or {}),
        image=found["Config"]["Image"],
        memory=(host.get("Memory") or 0) // (1024 * 1024),
        network=host["NetworkMode"],
        runtime=host.get("Runtime") or "",
        privileged=bool(host.get("Privileged")),
        started=seconds_of(state["StartedAt"]),
        finished=seconds_of(state["FinishedAt"]) if not state["Running"] else 0.0,
    )
