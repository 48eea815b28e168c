"""What a user would do instead on the same machine, with the same function: a container for each task.

- direct: no queue and no isolation between tasks: one container that runs, called over HTTP. What is possible at all.
- fernd: the function through fernd, warm.
- docker run: for each task a container is created, started, called when it listens, and removed, by the Engine API.
- Celery: a task queue from PyPI on a Redis server, whose worker does the same with the docker library.

Each caller calls again as soon as it has its answer. Writes a picture of latency against callers.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import aiohttp
import docker

from agent.containers.spec import EngineTraits
from benches.celery_stack import celery
from benches.cloud import build_echo, cloud, direct_container
from benches.engine import DockerEngine
from benches.figures import Figure
from benches.path import BODY, PLAIN, WAIT, Run, load
from benches.picture import Line, draw

CALLERS = (1, 4, 16)
SECONDS = 3.0
SLOW_SECONDS = 8.0
"""For what takes a second a task."""

PICTURE = Path("var/latency.svg")


async def run(details: dict[str, Any]) -> list[Figure]:
    """Measure."""
    client = docker.from_env()
    image = build_echo(client)
    found: dict[str, dict[int, Run]] = {}
    with direct_container(client, image) as direct:
        async with cloud() as fernd, DockerEngine() as engine, celery() as queue:
            traits = await engine.traits()
            function = f"{fernd.url}/v1/task/{await fernd.create_function('echo', image)}"
            await load(fernd.session, function, WAIT, max(CALLERS), 1.0)
            for callers in CALLERS:
                for name, measured in (
                    ("direct", await _over_http(f"{direct}/", PLAIN, {}, callers)),
                    ("fernd", await _over_http(function, WAIT, fernd.session.headers, callers)),
                    ("docker run", await _container_each(engine, traits, image, callers)),
                    ("Celery", Run(*await queue.load(image, BODY.decode(), callers, SLOW_SECONDS))),
                ):
                    found.setdefault(name, {})[callers] = measured
    details["rows"] = [
        {
            "what": name,
            "callers": callers,
            "per_second": round(each.rate, 2),
            "p50_ms": round(each.within(0.5), 2),
            "p99_ms": round(each.within(0.99), 2),
        }
        for name, by_callers in found.items()
        for callers, each in by_callers.items()
    ]
    lines = [
        Line(name, [(callers, each.within(0.5)) for callers, each in by_callers.items()])
        for name, by_callers in found.items()
    ]
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_text(draw("median latency, ms", "callers", lines), encoding="utf-8")
    return [
        Figure(
            f"tasks a second, fernd ÷ {other}, {callers} callers",
            found["fernd"][callers].rate / found[other][callers].rate,
            note=f"{found['fernd'][callers].rate:,.0f} ÷ {found[other][callers].rate:,.1f} a second",
        )
        for other in ("docker run", "Celery")
        for callers in CALLERS
    ]


async def _over_http(url: str, headers: dict[str, str], more: Any, callers: int) -> Run:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=callers), headers=more) as session:
        return await load(session, url, headers, callers, SECONDS)


async def _container_each(engine: DockerEngine, traits: EngineTraits, image: str, callers: int) -> Run:
    latencies: list[float] = []
    begun = time.perf_counter()

    async def call() -> None:
        while (sent := time.perf_counter()) - begun < SLOW_SECONDS:
            bare = await engine.start(traits, image)
            async with await bare.client() as client, client.post("/", data=BODY) as answer:
                if await answer.read() != BODY:
                    raise RuntimeError("the answer is not what was sent")
            await engine.remove(bare.name)
            latencies.append(time.perf_counter() - sent)

    await asyncio.gather(*(call() for _ in range(callers)))
    return Run(latencies, time.perf_counter() - begun)
