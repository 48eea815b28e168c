"""The audit that every scenario ends in: nothing lost, nothing doubled, nothing left."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import docker

from agent.containers.spec import NODE_LABEL
from tests.chaos.programs import Program
from tests.chaos.workload import RETRIES, Entry
from tests.chaos.world import World

SETTLE_SECONDS = 45.0
"""For acknowledgements that were under way, and for removals."""

LASTING_FILES = {
    "agent.lock",
    "bodies",
    "credential",
    "images.json",  # which images the node pulled
    "journal.sqlite",
    "journal.sqlite-shm",
    "journal.sqlite-wal",
    "marks",
    "node.json",
}
"""What an agent's data directory holds when nothing is under way."""


async def audit(world: World, *, answers: bool = True) -> None:
    """Wait until everything has ended, stop the programs, and look at all that they leave.

    Every program runs when this is called, and every fault has ended.

    Args:
        answers: Every task that may run again ends with its function's own answer. A task that must not run
            twice may always end as `NODE_LOST` instead.
    """
    tally, client = world.tally, world.client
    await client.all_results()
    if world.witness is not None:
        await asyncio.to_thread(world.witness.tell, world.executions)
    problems = []
    for entry in client.ledger:
        problems += await _judge(world, entry, answers=answers)
    tally.audited += len(client.ledger)
    tally.executions += len(world.executions.seen)
    problems += await leavings(world)
    assert not problems, "\n".join([f"seed {tally.seed}, logs in {world.directory}:", *problems])


async def leavings(world: World) -> list[str]:
    """Wait until nothing is under way, stop the programs, and say what they leave behind, and what they complain of."""
    left = await _left_running(world)
    problems = await _stop(world)
    left += await _left_behind(world)
    world.tally.orphans += len(left)
    return problems + left + _loud(world)


async def _judge(world: World, entry: Entry, *, answers: bool) -> list[str]:
    """Say what is wrong with the end of a task."""
    problems = []
    status, answer = await world.client.result(entry)
    task = await world.client.task(entry)
    runs = world.executions.of(entry.id)
    if (status, answer) != entry.first:
        world.tally.doubled += 1
        problems.append(f"{entry.id}: its end changed from {entry.first} to {(status, answer)}")
    if entry.cancelled:
        if (task["state"], status, task["error"]) != ("cancelled", 499, "CANCELLED"):
            world.tally.lost += 1
            problems.append(f"{entry.id}: was cancelled, and ended {status} {answer}, {task}")
    elif status == 200:
        if not entry.is_right(answer) or task["progress"] != 100:
            world.tally.lost += 1
            problems.append(f"{entry.id}: a wrong answer {str(answer)[:500]!r}, {task}")
        elif not entry.silent and answer["nonce"] not in {run.nonce for run in runs}:
            problems.append(f"{entry.id}: answered, and nobody saw it run: the tap is blind")
    elif task["error"] != "NODE_LOST" or (answers and not entry.runs_once):
        world.tally.lost += 1
        problems.append(f"{entry.id}: ended {status} {answer}, {task}")
    asked = world.executions.job_containers.get(entry.id, 0)
    if entry.runs_once and max(len(runs), asked) > 1:
        world.tally.doubled += 1
        problems.append(f"{entry.id}: must run once and ran {len(runs)} times, containers {asked}: {runs}")
    if task["state"] not in {"finished", "cancelled"} or task["attempt"] > RETRIES + 1:
        world.tally.lost += 1
        problems.append(f"{entry.id}: {task}")
    return problems


async def _left_running(world: World) -> list[str]:
    """Say what is not settled while everything still runs: journals and the dispatcher's database."""

    def unsettled() -> list[str]:
        found = []
        for place in world.places:
            directory = place.agent.directory
            held = _count(directory / "journal.sqlite", "SELECT count(*) FROM attempt")
            bodies = [str(file) for file in (directory / "bodies").iterdir()]
            found += [f"{place.agent.name}: {held} attempts in the journal"] * bool(held) + bodies
        database = world.dispatcher.directory / "dispatcher.sqlite"
        for what, query in (
            ("tasks that have not ended", "SELECT count(*) FROM task WHERE finished_ms IS NULL"),
            ("tasks without a result", "SELECT count(*) FROM task WHERE id NOT IN (SELECT task FROM task_result)"),
            ("results without a task", "SELECT count(*) FROM task_result WHERE task NOT IN (SELECT id FROM task)"),
            ("bodies that nobody uses", "SELECT count(*) FROM body WHERE NOT used"),
        ):
            if count := _count(database, query):
                found.append(f"dispatcher: {count} {what}")
        total = _count(database, "SELECT count(*) FROM task")
        if total != len(world.client.ledger):
            found.append(f"dispatcher: {total} tasks, and {len(world.client.ledger)} were accepted")
        return found

    return await _settled(unsettled)


async def _stop(world: World) -> list[str]:
    """Stop everything as a service would be stopped."""
    programs: list[Program] = [*(place.agent for place in world.places), world.dispatcher]
    codes = [await program.stop() for program in programs]
    return [f"{program.name}: exit code {code}" for program, code in zip(programs, codes, strict=True) if code]


async def _left_behind(world: World) -> list[str]:
    """Say what is left on the host after the programs have ended."""
    nodes = [place.agent.node_id for place in world.places]

    def things() -> list[str]:
        client = docker.DockerClient(base_url=f"unix://{world.engine}")
        with closing(client):
            found: list[Any] = []
            for node in nodes:
                labelled: dict[str, Any] = {"label": f"{NODE_LABEL}={node}"}
                found += client.containers.list(all=True, filters=labelled, ignore_removed=True)
                found += client.networks.list(filters=labelled)
                found += client.volumes.list(filters=labelled)
            return [f"left on the engine: {thing}" for thing in found]

    left = await _settled(things)
    for place in world.places:
        # Marks of containers lie in a directory for each boot of the machine, which stays.
        files = {
            str(file.relative_to(place.agent.directory))
            for file in place.agent.directory.rglob("*")
            if file.is_file() or file.parent.name != "marks"
        }
        left += [f"{place.agent.name}: {file} is left" for file in sorted(files - LASTING_FILES)]
    return left


def _loud(world: World) -> list[str]:
    """Give the error lines that the scenario does not provoke."""
    programs = [*(place.agent for place in world.places), world.dispatcher]
    return [
        f"{program.name} said: {line}"
        for program in programs
        for line in program.lines
        if line.get("level") in {"error", "critical"} and not world.expected(line)
    ]


async def _settled(look: Callable[[], list[str]]) -> list[str]:
    """Look until nothing is found; where that does not come about, give what is found in the end."""
    found = ["nothing was looked at"]
    try:
        async with asyncio.timeout(SETTLE_SECONDS):
            while found := await asyncio.to_thread(look):
                await asyncio.sleep(0.1)
    except TimeoutError:
        pass
    return found


def _count(database: Path, query: str) -> int:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)) as connection:
        return int(connection.execute(query).fetchone()[0])
