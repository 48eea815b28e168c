"""PURE. What a function's container is made of, and how the engine is told.

Here stands every wall around a function: what it may use, see and do. Nothing here does anything;
`arguments` gives the body of the engine's create call, as the Engine API describes it.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from agent.containers.engine_values import Inspection
from agent.protocol import Lease, Mode, Revision

PORT = 8080
"""Where an http function listens inside its container."""

NOBODY = "65534:65534"
"""User and group of a container whose image names none."""

PIDS = 256
OPEN_FILES = 4096
"""Not more than any engine may give: it cannot raise its own hard limit."""

TMP_MIB = 64
JOB_LOG_MIB = 8
JOB_LOG = {"max-size": f"{JOB_LOG_MIB}m", "max-file": "2", "compress": "false"}
LESS_DEAR = 500
"""Added to what the kernel holds against a process when memory ends: functions go before the agent."""

NODE_LABEL = "fernd.node"
FUNCTION_LABEL = "fernd.function"
REVISION_LABEL = "fernd.revision"
ATTEMPT_LABEL = "fernd.attempt"
"""Of a job: see `attempt_label`."""


class EngineTraits(Struct, frozen=True):
    """What must be known of an engine to tell it well.

    Attributes:
        cgroup: Version of the kernel's control groups: only version 1 takes a swappiness.
        cpus: CPUs that there are; the engine refuses a container more.
        init: The engine has an init process to put before the function.
    """

    cgroup: int
    cpus: int
    init: bool


class ContainerSpec(Struct, frozen=True):
    """One container to be made.

    Attributes:
        user: User that the image names; empty where it names none.
        volumes: Paths that the image declares as volumes. They become memory, not disk.
        env: The function's own environment.
        contract_env: Variables of the function contract, which win over the function's own.
        command: What to run in place of what the image names.
        network: Name of the engine's network, or ``none``.
        publish: Publish the port on 127.0.0.1.
        memory: MiB.
        privileged: All three yeses were given: see `may_be_privileged`.
        runtime: OCI runtime that runs it; empty: the engine's own choice.
        attempt: Of a job: the attempt that it is for, as in `attempt_label`.
        grace: Seconds that the engine gives it where it is the engine that stops it.
    """

    image: str
    mode: Mode
    node: str
    function: str
    revision: str
    user: str = ""
    volumes: Sequence[str] = ()
    env: Mapping[str, str] = {}
    contract_env: Mapping[str, str] = {}
    command: Sequence[str] = ()
    network: str = "none"
    publish: bool = False
    cpus: float = 1.0
    memory: int = 256
    privileged: bool = False
    runtime: str = ""
    attempt: str = ""
    grace: float = 5.0


def attempt_label(lease: Lease) -> str:
    """Name an attempt, so that a job is known after a restart of the agent. The token itself stays secret."""
    return f"{lease.task}.{lease.attempt}.{hashlib.sha256(lease.token).hexdigest()[:16]}"


def spec_of(found: Inspection) -> ContainerSpec:
    """Tell from a container of ours what it was made of, as far as that matters once it runs."""
    attempt = found.labels.get(ATTEMPT_LABEL, "")
    return ContainerSpec(
        image=found.image,
        mode="job" if attempt else "http",
        node=found.labels[NODE_LABEL],
        function=found.labels.get(FUNCTION_LABEL, ""),
        revision=found.labels.get(REVISION_LABEL, ""),
        network=found.network,
        memory=found.memory,
        privileged=found.privileged,
        runtime=found.runtime,
        attempt=attempt,
    )


def may_be_privileged(revision: Revision, allowed_images: Sequence[str], engine_can: bool) -> bool:
    """Say whether a container is made privileged: the function asks, the operator allows the image, the engine can.

    Args:
        allowed_images: References, where ``*`` stands for any text.
    """
    return revision.privileged and engine_can and is_allowed(revision.image, allowed_images)


def is_allowed(image: str, allowed_images: Sequence[str] | None) -> bool:
    """Say whether an image is among those that an operator allows; ``*`` stands for any text, None for all images."""
    return allowed_images is None or any(matches(image, allowed) for allowed in allowed_images)


def matches(image: str, allowed: str) -> bool:
    """Say whether an image's name is of a form in which ``*`` stands for any text."""
    return re.fullmatch(".*".join(map(re.escape, allowed.split("*"))), image) is not None


def server_environment() -> dict[str, str]:
    """Give what the function contract puts in the environment of a server."""
    return {"PORT": str(PORT)}


def job_environment(query: str, task: str) -> dict[str, str]:
    """Give what the function contract puts in the environment of a job."""
    return {"QUERY_STRING": query, "TASK_ID": task}


def arguments(spec: ContainerSpec, traits: EngineTraits) -> dict[str, Any]:
    """Translate a specification for the engine."""
    job = spec.mode == "job"
    env = {**spec.env, **spec.contract_env}
    labels = {NODE_LABEL: spec.node, FUNCTION_LABEL: spec.function, REVISION_LABEL: spec.revision}
    if spec.attempt:
        labels[ATTEMPT_LABEL] = spec.attempt
    body: dict[str, Any] = {
        "Image": spec.image,
        "Env": [f"{name}={value}" for name, value in env.items()],
        "Labels": labels,
        "AttachStdin": job,
        "AttachStdout": True,
        "AttachStderr": True,
        "OpenStdin": job,
        "StdinOnce": job,
        # A health check of the image would cost CPU and tell us nothing: the request itself tells.
        "Healthcheck": {"Test": ["NONE"]},
        # An engine that ends waits so long for each, and one that is paused hears no signal.
        "StopTimeout": math.ceil(spec.grace),
        "HostConfig": _host_config(spec, traits),
    }
    if spec.command:
        body["Entrypoint"] = list(spec.command)
    if spec.publish:
        body["ExposedPorts"] = {f"{PORT}/tcp": {}}
    if not spec.privileged:
        body["User"] = spec.user or NOBODY
    return body


def _host_config(spec: ContainerSpec, traits: EngineTraits) -> dict[str, Any]:
    tmp = min(TMP_MIB, max(1, spec.memory // 2))
    tmpfs = f"rw,exec,nosuid,nodev,mode=1777,size={tmp}m"
    memory = spec.memory * 1024 * 1024
    config: dict[str, Any] = {
        "NetworkMode": spec.network,
        "ReadonlyRootfs": True,
        "Tmpfs": dict.fromkeys(("/tmp", *spec.volumes), tmpfs),  # noqa: S108 - a path inside the container
        "ShmSize": tmp * 1024 * 1024,
        "PidsLimit": PIDS,
        "Memory": memory,
        "MemorySwap": memory,
        "NanoCpus": int(min(spec.cpus, traits.cpus) * 1_000_000_000),
        "OomScoreAdj": LESS_DEAR,
        "Ulimits": [
            {"Name": "nofile", "Soft": OPEN_FILES, "Hard": OPEN_FILES},
            {"Name": "core", "Soft": 0, "Hard": 0},
        ],
        # A job's output must survive the agent; that of a server is read as it comes.
        "LogConfig": {"Type": "local", "Config": JOB_LOG} if spec.mode == "job" else {"Type": "none"},
        "Init": traits.init,
    }
    if traits.cgroup == 1:
        config["MemorySwappiness"] = 0
    if spec.runtime:
        config["Runtime"] = spec.runtime
    if spec.publish:
        config["PortBindings"] = {f"{PORT}/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}
    if spec.privileged:
        config["Privileged"] = True
    else:
        config["CapDrop"] = ["ALL"]
        config["SecurityOpt"] = ["no-new-privileges"]
    return config
