"""The first task of a new function whose image is present, against the same by hand.

By hand: the engine's create and start with the same flags, one look for the process id, a connect loop with steps of a
millisecond, one request. Through fernd: one call of the task API that waits for its answer. The two take turns, so that
whatever else the machine does meets both; medians are compared.

The same once more for functions that want a container kept ready: the function is created, its node says that it has a
warm container, and only then the first task comes. That is compared with the same start by hand.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

from benches.cloud import Cloud, cloud
from benches.engine import DockerEngine
from benches.figures import Figure

ROUNDS = 15
WARM_ROUNDS = 8


async def run(details: dict[str, Any], rounds: int = ROUNDS, warm_rounds: int = WARM_ROUNDS) -> list[Figure]:
    """Measure."""
    ours: list[float] = []
    by_hand: list[float] = []
    steps: dict[str, list[float]] = {}
    async with DockerEngine() as engine, cloud() as system:
        image = await engine.build_echo()
        traits = await engine.traits()
        for number in range(rounds + 1):
            function = await system.create_function(f"cold-{number}", image)
            begun = time.perf_counter()
            await system.invoke(function)
            taken = time.perf_counter() - begun
            begun = time.perf_counter()
            bare = await engine.start(traits, image)
            async with await bare.client() as client, client.post("/", data=b"{}") as response:
                await response.read()
            taken_by_hand = time.perf_counter() - begun
            await engine.remove(bare.name)
            if number:  # the first round warms caches up on both sides
                ours.append(taken)
                by_hand.append(taken_by_hand)
                for step, seconds in bare.steps.items():
                    steps.setdefault(step, []).append(seconds)
        ready = [await _first_of_a_warm_function(system, image, number) for number in range(warm_rounds)]
    details["prewarmed_ms"] = [round(each * 1000, 1) for each in ready]
    details["fernd_ms"] = [round(each * 1000, 1) for each in ours]
    details["by_hand_ms"] = [round(each * 1000, 1) for each in by_hand]
    details["steps_by_hand_ms"] = {step: round(statistics.median(each) * 1000, 1) for step, each in steps.items()}
    mine, baseline = statistics.median(ours), statistics.median(by_hand)
    note = f"{mine * 1000:.0f} ms ÷ {baseline * 1000:.0f} ms by hand, medians of {rounds}"
    prewarmed = statistics.median(ready)
    warm_note = f"{prewarmed * 1000:.1f} ms ÷ {baseline * 1000:.0f} ms by hand, medians of {warm_rounds} and {rounds}"
    return [
        Figure("cold start ÷ engine create + start + first answer", mine / baseline, at_most=1.10, note=note),
        Figure("the same with a container kept ready", prewarmed / baseline, at_most=0.10, note=warm_note),
    ]


async def _first_of_a_warm_function(system: Cloud, image: str, number: int) -> float:
    function = await system.create_function(f"ready-{number}", image, warm=1)
    while not any(key.startswith(f"{function}.") for key in await asyncio.to_thread(system.warm)):
        await asyncio.sleep(0.1)
    begun = time.perf_counter()
    await system.invoke(function)
    return time.perf_counter() - begun
