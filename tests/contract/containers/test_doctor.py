"""`fernd agent doctor` as a user runs it: on a machine that is well, and on one where nothing answers."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from aiohttp import web
from click.testing import CliRunner, Result
from structlog.testing import capture_logs

from agent import identity
from agent.cli.main import fernd
from agent.containers.engine import Engine
from agent.containers.runtimes import Runtimes, read_rules
from agent.doctor.engine import look_at_engine

CHECKS = ["node", "engine", "cgroup", "kernel", "rights", "disk-data"]
LINE = ["dns", "proxy", "ca", "dispatcher", "clock"]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with capture_logs():
        yield


@pytest.fixture
async def dispatcher() -> AsyncIterator[str]:
    """Answers that it is ready, and what time it is."""

    async def ready(_: web.Request) -> web.Response:
        return web.json_response({})

    app = web.Application()
    app.router.add_get("/readyz", ready)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def doctor(directory: Path, *arguments: str) -> Result:
    """Run it as a user would, in another thread, since it has an event loop of its own."""
    return await asyncio.to_thread(
        CliRunner().invoke, fernd, ["agent", "--data-dir", str(directory), "doctor", *arguments]
    )


def of(found: dict[str, Any]) -> dict[str, dict[str, str]]:
    assert all(set(check) == {"check", "state", "seen", "cure"} for check in found["checks"])
    return {check["check"]: check for check in found["checks"]}


@pytest.mark.engine
async def test_a_machine_that_is_well(
    dispatcher: str, tmp_path: Path, client: docker.APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every check is made, the canary comes back by the way of this node, and the engine is left as it was."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    node = str(uuid.uuid4())
    identity.save(tmp_path, identity.Identity(node, [dispatcher]), "secret-credential")
    done = await doctor(tmp_path, "--json")
    assert done.exit_code == 0, done.output
    assert "secret-credential" not in done.output
    found = json.loads(done.output)
    assert found["ok"] is True
    checks = of(found)
    assert list(checks) == [*CHECKS, "disk-images", *LINE, "canary"]
    assert {check["state"] for check in checks.values()} <= {"ok", "warning"}
    assert "since no agent runs here" in checks["canary"]["seen"]
    label = {"label": f"fernd.node={node}"}
    assert [client.containers(all=True, filters=label), client.networks(filters=label)] == [[], []]


@pytest.mark.engine
async def test_a_runtime_that_the_engine_lacks() -> None:
    """The setting that names it is said, with what the engine has, and how it is made known."""
    engine = Engine()
    try:
        finding, _ = await look_at_engine(engine, Runtimes("", read_rules(["image * = no-such"])))
    finally:
        await engine.close()
    assert finding.state == "failed"
    assert finding.seen.startswith("containers.runtimes: the engine has no OCI runtime 'no-such'; it has ")
    assert "/etc/docker/daemon.json" in finding.cure


async def test_a_machine_where_nothing_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither an engine nor a network keeps the doctor from its rounds: what is wrong is said with its cure."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    urls = ["http://127.0.0.1:1", "https://nowhere.invalid"]
    identity.save(tmp_path, identity.Identity(str(uuid.uuid4()), urls), "x")
    done = await doctor(tmp_path, "--json")
    assert done.exit_code == 1
    checks = of(json.loads(done.output))
    assert list(checks) == [*CHECKS, *LINE, "canary"]
    states = {name: checks[name]["state"] for name in ("engine", "dns", "dispatcher", "clock", "canary")}
    assert states == {
        "engine": "failed",
        "dns": "warning",  # of two names one needs no name server
        "dispatcher": "failed",
        "clock": "skipped",
        "canary": "skipped",
    }
    assert "systemctl start docker" in checks["engine"]["cure"]
    text = await doctor(tmp_path)
    assert text.exit_code == 1
    assert "cure: start it" in text.output


async def test_a_machine_that_never_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told how to join, and nothing is written to its data directory."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    done = await doctor(tmp_path / "data", "--json")
    assert done.exit_code == 1
    checks = of(json.loads(done.output))
    assert "fernd agent join" in checks["node"]["cure"]
    assert not (tmp_path / "data").exists()
