"""A burst: many tasks of many functions at once, none of which has a container, against the best order by hand.

By hand: functions one after the other by a few hands, each of which starts the function's container once, calls it
directly for all of its tasks, one after the other, and removes it when all is over. It is done with several numbers of
hands, and the fastest counts. Through fernd: all tasks are created at once, in random order, by as many callers, and
each waits for its answer.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import aiohttp

from agent.containers.spec import EngineTraits
from benches.cloud import Cloud, cloud
from benches.engine import DockerEngine
from benches.figures import Figure

FUNCTIONS = 20
TASKS = 500
HANDS = (2, 3, 4)
SEED = 4


async def run(details: dict[str, Any]) -> list[Figure]:
    """Measure."""
    async with DockerEngine() as engine:
        image = await engine.build_echo()
        traits = await engine.traits()
        async with cloud() as system:
            ours = await _through_fernd(system, image)
        by_hand = {hands: await _by_hand(engine, traits, image, hands) for hands in HANDS}
    details["fernd_s"] = round(ours, 2)
    details["by_hand_s"] = {str(hands): round(seconds, 2) for hands, seconds in by_hand.items()}
    best = min(by_hand, key=lambda hands: by_hand[hands])
    note = (
        f"{ours:.2f} s ÷ {by_hand[best]:.2f} s with {best} containers at a time; {TASKS} tasks of {FUNCTIONS} functions"
    )
    return [Figure("burst: last answer ÷ the best order by hand", ours / by_hand[best], at_most=1.3, note=note)]


async def _through_fernd(system: Cloud, image: str) -> float:
    functions = [await system.create_function(f"burst-{number}", image) for number in range(FUNCTIONS)]
    calls = [function for function in functions for _ in range(TASKS // FUNCTIONS)]
    random.Random(SEED).shuffle(calls)
    begun = time.perf_counter()
    await asyncio.gather(*(system.invoke(function, str(number).encode()) for number, function in enumerate(calls)))
    return time.perf_counter() - begun


async def _by_hand(engine: DockerEngine, traits: EngineTraits, image: str, hands: int) -> float:
    left = list(range(FUNCTIONS))
    done: list[str] = []

    async def work() -> None:
        while left:
            left.pop()
            bare = await engine.start(traits, image)
            done.append(bare.name)
            async with await bare.client() as client:
                for number in range(TASKS // FUNCTIONS):
                    await _call(client, str(number).encode())

    begun = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(hands)))
    seconds = time.perf_counter() - begun
    for name in done:
        await engine.remove(name)
    return seconds


async def _call(client: aiohttp.ClientSession, body: bytes) -> None:
    async with client.post("/", data=body) as answer:
        if await answer.read() != body:
            raise RuntimeError("the answer is not what was sent")
