"""A real agent that knows two dispatchers, over one PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import docker
import pytest

from agent.containers.spec import NODE_LABEL
from tests import postgres
from tests.chaos.programs import Agent
from tests.contract.http_api.api import Api
from tests.contract.replicas.pair import NO_STORE, Replica

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]


@dataclass
class Machines:
    """Two dispatchers, and a node that was at A first."""

    a: Replica
    b: Replica
    at_a: Api
    at_b: Api
    agent: Agent

    def containers(self) -> int:
        """Count the containers of the node that run."""
        client = docker.from_env()
        try:
            label = f"{NODE_LABEL}={self.agent.node_id}"
            return len(client.containers.list(filters={"label": label, "status": "running"}))
        finally:
            client.close()


async def until_running(api: Api, task: str) -> None:
    """Wait until a function runs."""
    async with asyncio.timeout(30):
        while (await api("GET", f"/v1/task/{task}")).json()["state"] != "running":
            await asyncio.sleep(0.02)


@pytest.fixture
async def machines(tmp_path: Path) -> AsyncIterator[Machines]:
    url = postgres.shared().schema(postgres.name_of(tmp_path))
    a, b = Replica("a", tmp_path, url), Replica("b", tmp_path, url)
    agent = Agent("node", tmp_path, {"FERND_LOG_LEVEL": "debug"})
    async with aiohttp.ClientSession() as http:
        try:
            await a.start()
            await b.start()
            at_a, at_b = (Api(http, replica.url, a.token, NO_STORE) for replica in (a, b))
            token = (await at_a("POST", "/v1/node/join-token")).json()["token"]
            await agent.join(f"{a.url},{b.url}", token)
            await agent.start_ready()
            yield Machines(a, b, at_a, at_b, agent)
            await agent.stop()
        finally:
            for program in (agent, a, b):
                await program.close()


async def test_a_task_survives_its_dispatcher(machines: Machines, image: str) -> None:
    """Created at B, run at A, which is killed meanwhile: the node goes to B by itself, and the answer is recorded once.

    Then a cancel at A, which is back, stops a container of the node at B.
    """
    function = await machines.at_b.function(image=image, retries=0)
    await machines.at_b("POST", f"/v1/function/{function}/capabilities", content={"timeout": 60, "memSize": 64})
    task = await machines.at_b.task(function, content={"text": "once", "seconds": 4, "size": 0})
    await until_running(machines.at_b, task)
    moved = asyncio.create_task(machines.b.logged("session began", node=machines.agent.node_id))
    await machines.a.kill()
    assert (await moved)["keep"] == 1
    answer = await machines.at_b("GET", f"/v1/task/{task}/result", headers={"Prefer": "wait=20"})
    assert (answer.status, answer.json()["task"]) == (200, task)
    shown = (await machines.at_b("GET", f"/v1/task/{task}")).json()
    assert (shown["attempt"], shown["node"]) == (1, machines.agent.node_id)

    await machines.a.start()
    long = await machines.at_a.task(function, content={"text": "long", "seconds": 60, "size": 0})
    await until_running(machines.at_a, long)
    stopped = asyncio.create_task(machines.agent.logged("attempt is stopped", task=long, reason="cancelled"))
    assert (await machines.at_a("DELETE", f"/v1/task/{long}")).status == 204
    await stopped
    async with asyncio.timeout(30):
        while await asyncio.to_thread(machines.containers):
            await asyncio.sleep(0.05)
