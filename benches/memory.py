"""Whether the agent's memory grows with the tasks that it has run: resident after many against after a thousand.

python -m benches.memory [--tasks 50000]
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from benches.cloud import Cloud, cloud
from benches.engine import DockerEngine
from benches.figures import Figure, table

FIRST = 1_000
TASKS = 50_000
CALLERS = 16
FUNCTIONS = 4


async def run(details: dict[str, Any], tasks: int = TASKS) -> list[Figure]:
    """Measure."""
    async with DockerEngine() as engine:
        image = await engine.build_echo()
    async with cloud() as system:
        functions = [await system.create_function(f"memory-{number}", image) for number in range(FUNCTIONS)]
        await _call(system, functions, FIRST)
        first = system.agent.resident_mib()
        details["resident_mib"] = {str(FIRST): round(first, 2)}
        done = FIRST
        while done < tasks:
            done += await _call(system, functions, min(tasks - done, max(FIRST, tasks // 10)))
            details["resident_mib"][str(done)] = round(system.agent.resident_mib(), 2)
        last = system.agent.resident_mib()
    note = f"{last:.1f} MiB after {tasks:,} ÷ {first:.1f} MiB after {FIRST:,}; {FUNCTIONS} functions, {CALLERS} callers"
    return [Figure("agent memory after many tasks ÷ after 1,000", last / first, at_most=1.05, note=note)]


async def _call(system: Cloud, functions: list[str], tasks: int) -> int:
    numbers = iter(range(tasks))

    async def work() -> None:
        for number in numbers:
            await system.invoke(functions[number % len(functions)], str(number).encode())

    await asyncio.gather(*(work() for _ in range(CALLERS)))
    return tasks


def main() -> None:
    """Measure with another number of tasks."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, default=TASKS)
    details: dict[str, Any] = {}
    print(table(asyncio.run(run(details, parser.parse_args().tasks))))
    print(details)


if __name__ == "__main__":
    main()
