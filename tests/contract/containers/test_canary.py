"""The canary on the real engine: all the way of a task, nothing left of it, and an answer to what went wrong."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

import docker
import pytest

from agent.containers.engine import Engine, EngineError
from agent.containers.host import ContainerHost
from agent.containers.pool import Pool
from agent.containers.probe_image import PATH
from agent.containers.reach import Way
from tests.contract.containers.calls import running_host

pytestmark = pytest.mark.engine

WAYS: list[Way] = ["namespace", "bridge", "published"]


@pytest.fixture
async def host(request: pytest.FixtureRequest) -> AsyncIterator[ContainerHost]:
    async with running_host(reach=getattr(request, "param", "auto")) as host:
        yield host


def contents(client: docker.APIClient, host: ContainerHost) -> dict[str, set[str]]:
    """What there is on the engine that could be the canary's: others use it at the same time."""
    label = {"label": f"fernd.node={host._node_id}"}
    tag = hashlib.sha256(host._node_id.encode()).hexdigest()[:12]
    return {
        "containers": {each["Id"] for each in client.containers(all=True, filters=label)},
        "networks": {each["Id"] for each in client.networks(filters=label)},
        "volumes": {each["Name"] for each in client.volumes(filters=label)["Volumes"] or ()},
        "images": {each["Id"] for each in client.images(f"fernd-canary:{tag}")},
    }


@pytest.mark.parametrize("host", WAYS, indirect=True)
async def test_it_comes_back_and_leaves_nothing(client: docker.APIClient, host: ContainerHost) -> None:
    """Each way to containers is gone to its end, step by step, and the engine holds what it held before."""
    before = contents(client, host)
    report = await host.canary()
    assert (report.problem, report.skipped) == ("", "")
    assert list(report.steps) == ["image", "start", "reach", "answer", "remove"]
    assert report.reach == host._reach.way
    assert contents(client, host) == before
    assert before["containers"] == before["images"] == set()


async def test_a_program_that_ends_is_named(
    client: docker.APIClient, host: ContainerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that does not stay is said with the step that it failed at, and nothing is left."""
    before = contents(client, host)
    create = Engine.create

    async def ends_at_once(self: Engine, name: str, arguments: dict[str, object]) -> str:
        return await create(self, name, arguments | {"Entrypoint": [PATH]})

    monkeypatch.setattr(Engine, "create", ends_at_once)
    # It may have ended before anybody looks for its door: its end is told by another way, a moment later.
    monkeypatch.setattr(Pool, "_door", lambda *_: None)
    report = await host.canary()
    assert report.failed == "reach"
    assert "ended with exit code 0" in report.problem
    assert contents(client, host) == before


async def test_an_engine_that_refuses_is_quoted(
    client: docker.APIClient, host: ContainerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the engine says to a start that it cannot make is the problem, and nothing is left."""
    before = contents(client, host)

    async def refused(self: Engine, container: str) -> None:
        raise EngineError(500, "no space left on device")

    monkeypatch.setattr(Engine, "start", refused)
    report = await host.canary()
    assert (report.failed, report.problem) == ("start", "no space left on device")
    assert contents(client, host) == before


async def test_an_engine_that_is_away(host: ContainerHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an engine the first step says so."""
    monkeypatch.setattr(host, "engine", Engine())
    report = await host.canary()
    assert report.failed == "image"
    assert "engine" in report.problem
