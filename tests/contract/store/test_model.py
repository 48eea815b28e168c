"""Random lives of a few tasks against a model of the rules: never lost, never recorded twice, progress never falls."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.protocol import Lease, Phase, Revision
from dispatcher.store.base import Store
from dispatcher.store.records import Ended, Lost, NewTask, State, Verdict
from tests.contract.store.cases import ACCOUNT
from tests.contract.store.stores import STORES

REVISION = Revision(f"{0xA:024x}", 1, "image", retries=1)
NODES = ["node-1", "node-2"]
PHASES: list[Phase] = ["pulling", "starting", "running", "uploading"]
UNUSED = Lease(f"{0xFFF:024x}", 1, bytes(16))


@dataclass
class Modelled:
    """A task by the rules."""

    state: State = State.QUEUED
    attempt: int = 1
    progress: int = 0
    status: int = 0
    present: Lease | None = None
    """Held by `node`, or good only to end the task where the state is queued."""
    node: str = ""
    ended_by: Lease | None = None

    def held(self, lease: Lease) -> bool:
        return self.state in (State.OFFERED, State.ACCEPTED) and lease == self.present

    def endable(self, lease: Lease, node: str) -> bool:
        return self.finished_ms is None and lease == self.present and node == self.node

    @property
    def finished_ms(self) -> int | None:
        return 1 if self.state in (State.FINISHED, State.CANCELLED) else None

    def end(self, state: State, status: int, by: Lease | None = None) -> None:
        self.state, self.status, self.present, self.ended_by = state, status, None, by
        if by is not None and state is State.FINISHED:
            self.attempt, self.progress = by.attempt, 100


@dataclass
class World:
    """The store and the model, side by side: each step does the same to both and compares the answers."""

    store: Store
    tasks: dict[str, Modelled] = field(default_factory=dict)
    leases: list[tuple[Lease, str]] = field(default_factory=list)
    tokens: int = 0
    created: int = 0
    recorded: dict[str, int] = field(default_factory=dict)

    def pick(self, number: int) -> tuple[Lease, str]:
        return self.leases[-1 - number % len(self.leases)] if self.leases else (UNUSED, NODES[0])

    def of(self, lease: Lease) -> Modelled:
        return self.tasks.get(lease.task, Modelled())

    async def create(self, _: int) -> None:
        self.created += 1
        task_id = f"{self.created:024x}"
        new = NewTask(task_id, ACCOUNT, REVISION, self.created, "", [], b"", 0)
        assert await self.store.create_task(new) == task_id
        self.tasks[task_id] = Modelled()

    async def claim(self, number: int) -> None:
        node, wanted = NODES[number % 2], 1 + number % 3
        tokens = [(self.tokens + index + 1).to_bytes(16) for index in range(wanted)]
        self.tokens += wanted
        waiting = sorted(task_id for task_id, task in self.tasks.items() if task.state is State.QUEUED)
        expected = [
            Lease(task_id, self.tasks[task_id].attempt, token) for task_id, token in zip(waiting, tokens, strict=False)
        ]
        claims = await self.store.claim(REVISION.key, node, tokens, 1)
        assert [claim.lease for claim in claims] == expected
        for lease in expected:
            task = self.tasks[lease.task]
            task.state, task.present, task.node = State.OFFERED, lease, node
            self.leases.append((lease, node))

    async def accept(self, number: int) -> None:
        lease, node = self.pick(number)
        task, by = self.of(lease), node if number % 5 else NODES[0]
        good = task.held(lease) and task.node == by
        assert await self.store.accept(lease, by) is good
        if good:
            task.state = State.ACCEPTED

    async def release(self, number: int) -> None:
        lease, _ = self.pick(number)
        task = self.of(lease)
        good = task.held(lease)
        assert await self.store.release(lease) is good
        if good:
            task.state, task.present = State.QUEUED, None

    async def lose(self, number: int) -> None:
        lease, _ = self.pick(number)
        task = self.of(lease)
        lost = Lost.STALE
        if task.held(lease):
            lost = Lost.REQUEUED if task.attempt <= REVISION.retries else Lost.EXHAUSTED
        assert await self.store.lose(lease, Ended(2, 503, [], b"", 0, error="NODE_LOST")) is lost
        if lost is Lost.REQUEUED:
            task.state, task.attempt = State.QUEUED, task.attempt + 1
        elif lost is Lost.EXHAUSTED:
            task.end(State.FINISHED, 503)

    async def progress(self, number: int) -> None:
        lease, _ = self.pick(number)
        task, percent = self.of(lease), number % 101
        good = task.held(lease)
        assert await self.store.progress(lease, PHASES[number % 4], percent, "") is good
        if good:
            task.progress = max(task.progress, percent)

    async def finish(self, number: int) -> None:
        lease, node = self.pick(number)
        task, by = self.of(lease), node if number % 5 else NODES[1]
        verdict = Verdict.STALE
        if task.endable(lease, by):
            verdict = Verdict.RECORDED
        elif task.ended_by == lease and by == task.node:
            verdict = Verdict.CANCELLED if task.state is State.CANCELLED else Verdict.REPEATED
        assert await self.store.finish(lease, by, Ended(2, 200 + number % 100, [], b"", 0)) is verdict
        if verdict is Verdict.RECORDED:
            self.recorded[lease.task] = self.recorded.get(lease.task, 0) + 1
            task.end(State.FINISHED, 200 + number % 100, lease)

    async def holds(self, number: int) -> None:
        lease, node = self.pick(number)
        good = self.of(lease).endable(lease, node)
        assert await self.store.holds(lease, node) is good
        assert (await self.store.input_of(lease, node) is not None) is good
        task = self.of(lease)
        cancelled = task.state is State.CANCELLED and task.ended_by == lease and task.node == node
        assert await self.store.was_cancelled(lease, node) is cancelled

    async def cancel(self, number: int) -> None:
        if not self.tasks:
            return
        task_id = sorted(self.tasks)[number % len(self.tasks)]
        task = self.tasks[task_id]
        found = await self.store.cancel(
            ACCOUNT, task_id, Ended(2, 499, [], b"", 0, state=State.CANCELLED, error="CANCELLED")
        )
        assert found is not None
        assert found[1] is (task.finished_ms is None)
        if found[1]:
            held = task.present is not None and task.held(task.present)
            task.end(State.CANCELLED, 499, task.present if held else None)

    async def expire(self, number: int) -> None:
        before = number % (self.created + 2)
        waiting = [
            task_id
            for task_id, task in sorted(self.tasks.items())
            if task.state is State.QUEUED and int(task_id, 16) < before
        ]
        ended = Ended(2, 503, [], b"", 0, error="NO_CAPABLE_NODE")
        assert await self.store.expire_queued(REVISION.key, before, ended, 2) == waiting[:2]
        for task_id in waiting[:2]:
            self.tasks[task_id].end(State.FINISHED, 503)

    async def reopen(self, _: int) -> None:
        await self.store.close()
        await self.store.open()

    async def check(self) -> None:
        """The store shows every task as the model has it, and counts them the same."""
        for task_id, task in self.tasks.items():
            found = await self.store.task(ACCOUNT, task_id)
            assert found is not None
            shown = (found.state, found.attempt, found.progress, found.status)
            assert shown == (task.state, task.attempt, task.progress, task.status)
            assert (await self.store.result(ACCOUNT, task_id) is not None) is (task.finished_ms is not None)
        waiting = sum(task.state is State.QUEUED for task in self.tasks.values())
        assert sum(one.tasks for one in await self.store.queued()) == waiting
        held = {task.present for task in self.tasks.values() if task.present and task.held(task.present)}
        assert {leased.lease for leased in await self.store.leased()} == held
        assert len(await self.store.tasks(ACCOUNT, 1000, None, None, None)) == len(self.tasks)
        assert all(times == 1 for times in self.recorded.values())


# Ordered by how often: most of a life is going to a node and back.
STEPS = [
    *["claim"] * 4,
    *["create", "accept", "lose", "finish", "progress"] * 2,
    *["release", "holds", "cancel", "expire", "reopen"],
]


EXAMPLES = {"sqlite": 150, "postgres": 40}
"""Lives tried: each has a database of its own, and it takes ten times as long to make one in a server."""


@pytest.mark.parametrize("name", STORES)
def test_every_life_follows_the_rules(name: str) -> None:
    """Whatever happens to tasks, in whatever order, with old leases and new: each answer is the model's."""

    async def live(directory: Path, steps: list[tuple[str, int]]) -> None:
        world: Any = World(STORES[name](directory))
        await world.store.open()
        try:
            for step, number in steps:
                await getattr(world, step)(number)
            await world.check()
        finally:
            await world.store.close()

    @settings(max_examples=EXAMPLES[name], deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 500)), min_size=5, max_size=50))
    def every_life(steps: list[tuple[str, int]]) -> None:
        directory = Path(tempfile.mkdtemp())
        try:
            asyncio.run(live(directory, steps))
        finally:
            shutil.rmtree(directory)

    every_life()
