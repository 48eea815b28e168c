"""The pool, on an engine of plain processes: budget, order of removal, and everything that can race."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from agent.containers.container import Container, State
from agent.containers.engine import EngineError, EngineUnavailable, Image
from agent.containers.marks import Marks
from agent.containers.networks import Networks
from agent.containers.orphans import remove_orphans
from agent.containers.pool import NoRoom, Pool
from agent.containers.reach import Reach
from agent.containers.spec import ContainerSpec, EngineTraits
from tests.contract.containers.calls import eventually
from tests.contract.containers.fake_engine import FakeEngine

IMAGE = "an-image"
NODE = "a-node"


class Bench:
    """A pool on a fake engine, with a clock that the test moves."""

    def __init__(self, **settings: Any) -> None:
        self.now = 0.0
        self.engine = FakeEngine({IMAGE: Image("sha256:1", "", ())})
        self.pool = Pool(
            self.engine,
            EngineTraits(cgroup=2, cpus=1, init=True),
            Reach("bridge", Networks(self.engine, NODE)),
            Marks(None),
            **{"memory_budget": 100, "idle_seconds": 60.0, "warm_limit": 10, **settings},
            monotonic=lambda: self.now,
        )

    async def start(self, revision: str = "f.1", memory: int = 10, script: str = "exec sleep 60") -> Container:
        spec = ContainerSpec(
            image=IMAGE,
            mode="http",
            node=NODE,
            function="f",
            revision=revision,
            command=("/bin/sh", "-c", script),
            memory=memory,
        )
        return await self.pool.start(spec, _drop)

    async def idle(self, revision: str = "f.1", memory: int = 10) -> Container:
        """Start a container that becomes idle, a second after the one before."""
        container = await self.start(revision, memory)
        self.now += 1
        self.pool.give_back(container)
        return container

    async def present(self) -> set[str]:
        await self.pool.settled()
        return {each.name for each in await self.engine.containers(f"fernd.node={NODE}")}


async def _drop(*_: object) -> None:
    return


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    bench.engine.down = False
    await bench.pool.close()
    assert await bench.present() == set()
    assert bench.pool.names() == set()
    await bench.engine.close()


async def test_lends_the_one_used_last(bench: Bench) -> None:
    """Of several idle containers of a revision the warmest is lent, each to one task only."""
    first, second = await bench.start(), await bench.start()
    bench.pool.give_back(first)
    bench.pool.give_back(second)
    await bench.start("g.1")
    assert [await bench.pool.take("f.1") for _ in range(3)] == [second, first, None]
    assert await bench.pool.take("g.1") is None


async def test_lends_a_ready_container_to_several(bench: Bench) -> None:
    """Where the function says so, a container works for several tasks; never beyond, never before it was ready."""
    shared = await bench.start()
    assert await bench.pool.take("f.1", 3) is None
    shared.ready = True
    assert await bench.pool.take("g.1", 3) is None
    assert [await bench.pool.take("f.1", 3) for _ in range(3)] == [shared, shared, None]
    bench.pool.give_back(shared)
    assert bench.pool.warm() == []
    assert await bench.pool.take("f.1", 3) is shared
    for _ in range(3):
        bench.pool.give_back(shared)
    assert bench.pool.warm() == ["f.1"]


async def test_removes_a_shared_container_after_its_last_task(bench: Bench) -> None:
    """One that is not to be used again takes nothing new, and does not go while another task is in it."""
    shared = await bench.start()
    shared.ready = True
    assert await bench.pool.take("f.1", 2) is shared
    bench.pool.retire(shared)
    assert await bench.present() == {shared.name}
    assert await bench.pool.take("f.1", 2) is None
    bench.pool.give_back(shared)
    assert await bench.present() == set()


async def test_the_longest_idle_gives_way(bench: Bench) -> None:
    """Where memory is needed the container that was idle longest goes first, and only as many as needed."""
    oldest, middle, newest = [await bench.idle(f"{name}.1", 30) for name in "abc"]
    needing = await bench.start("d.1", 40)
    assert await bench.present() == {middle.name, newest.name, needing.name}
    assert bench.pool.warm() == ["b.1", "c.1"]
    assert oldest.state is State.GONE


async def test_no_room(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Busy containers never give way; a start waits for a removal, but not for ever."""
    monkeypatch.setattr("agent.containers.pool.ROOM_SECONDS", 0.2)
    with pytest.raises(NoRoom, match="more than"):
        await bench.start(memory=101)
    busy = await bench.start(memory=80)
    with pytest.raises(NoRoom, match="did not become free"):
        await bench.start("g.1", memory=30)
    waiting = asyncio.create_task(bench.start("g.1", memory=30))
    await asyncio.sleep(0)
    bench.pool.discard(busy)
    started = await waiting
    assert await bench.present() == {started.name}


async def test_at_most_so_many_warm() -> None:
    """The number of idle containers has a limit of its own; 0 keeps none."""
    bench = Bench(warm_limit=2)
    first, second, third = [await bench.idle(f"{name}.1") for name in "abc"]
    assert await bench.present() == {second.name, third.name}
    assert first.state is State.GONE
    await bench.pool.close()
    bench = Bench(warm_limit=0)
    await bench.idle()
    assert await bench.present() == set()


async def test_waits_where_that_is_quicker(bench: Bench) -> None:
    """A task waits for a busy container while that is expected to be quicker than a start; who came first is first."""
    busy = await bench.start()
    busy.ready = True
    assert await bench.pool.take("f.1") is None, "nothing is known yet"
    bench.pool.waiting.cold_starts.note("f.1", 5.0)
    bench.pool.waiting.services.note("f.1", 2.0)
    waiting = [asyncio.create_task(bench.pool.take("f.1")) for _ in range(2)]
    await asyncio.sleep(0)
    assert await bench.pool.take("f.1") is None, "a third one would wait for 6 s, and a start takes 5"
    bench.pool.give_back(busy)
    assert await waiting[0] is busy
    assert bench.pool.warm() == []
    waiting[1].cancel()
    await asyncio.wait(waiting)
    bench.pool.give_back(busy)
    assert bench.pool.warm() == ["f.1"]


async def test_waits_for_no_longer_than_a_start(bench: Bench) -> None:
    """Where a wait turns out longer than expected, another container is started; one that leaves is not waited for."""
    busy = await bench.start()
    busy.ready = True
    bench.pool.waiting.cold_starts.note("f.1", 0.05)
    bench.pool.waiting.services.note("f.1", 0.01)
    assert await bench.pool.take("f.1") is None
    busy.leaving = True
    bench.pool.waiting.cold_starts.note("f.1", 1000.0)
    assert await bench.pool.take("f.1") is None


async def test_a_task_that_goes_as_it_is_given_a_container(bench: Bench) -> None:
    """What was given to a task that is cancelled in that moment is not lost."""
    busy = await bench.start()
    busy.ready = True
    bench.pool.waiting.cold_starts.note("f.1", 5.0)
    bench.pool.waiting.services.note("f.1", 1.0)
    waiting = asyncio.create_task(bench.pool.take("f.1"))
    await asyncio.sleep(0)
    bench.pool.give_back(busy)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert await bench.pool.take("f.1") is busy


async def test_kept_ready(bench: Bench) -> None:
    """Containers that are kept ready outlast others: when they are idle for long, and where memory is needed."""
    ready, more, other = [await bench.idle(revision, 30) for revision in ("f.1", "f.1", "g.1")]
    bench.pool.reserve({"f.1": 1})
    assert not bench.pool.has_spare(10)
    bench.now += 100
    await bench.pool.tend()
    assert await bench.present() == {more.name}
    assert (ready.state, other.state) == (State.GONE, State.GONE)
    assert bench.pool.has_spare(45)
    assert not bench.pool.has_spare(46)
    later = await bench.idle("h.1", 50)
    await bench.start("i.1", 40)
    assert (later.state, more.state) == (State.GONE, State.PAUSED)
    await bench.start("j.1", 40)
    assert (more.state, bench.pool.warm()) == (State.GONE, [])


async def test_the_machine_is_short_of_memory() -> None:
    """Idle containers go one after the other for as long as the machine needs memory, and none is started ahead."""
    short = False
    bench = Bench(short_of_memory=lambda: short, warm_limit=None)
    idle = [await bench.idle(f"{name}.1") for name in "abc"]
    short = True
    await bench.pool.tend()
    assert await bench.present() == {idle[1].name, idle[2].name}
    assert not bench.pool.has_spare(10)
    await bench.pool.tend()
    short = False
    await bench.pool.tend()
    assert await bench.present() == {idle[2].name}
    await bench.pool.close()


async def test_pause_then_remove(bench: Bench) -> None:
    """An idle container is paused, then removed; one that is lent in between starts its time anew."""
    container = await bench.idle()
    bench.now += 20
    await bench.pool.tend()
    assert (await bench.engine.inspect(container.name)).paused
    await bench.pool.tend()
    assert await bench.pool.take("f.1") is container
    assert not (await bench.engine.inspect(container.name)).paused
    bench.pool.give_back(container)
    bench.now += 59
    await bench.pool.tend()
    assert await bench.present() == {container.name}
    bench.now += 2
    await bench.pool.tend()
    assert await bench.present() == set()


@pytest.mark.parametrize("first", ["pause", "take", "discard"])
async def test_pause_lend_and_removal_at_once(bench: Bench, first: str) -> None:
    """However they fall together, a container is lent running or not at all, and never touched after its removal."""
    for _ in range(10):
        container = await bench.idle()
        bench.now += 20

        async def discard(container: Container = container) -> None:
            bench.pool.discard(container)

        async def take() -> Container | None:
            return await bench.pool.take("f.1")

        actions: dict[str, Callable[[], Awaitable[Container | None]]] = {
            "pause": bench.pool.tend,
            "take": take,
            "discard": discard,
        }
        order = [first, *(name for name in actions if name != first)]
        results = dict(zip(order, await asyncio.gather(*(actions[name]() for name in order)), strict=True))
        lent = results["take"]
        await bench.pool.settled()
        names = [call for call, name in bench.engine.calls if name == container.name]
        if "remove" in names:
            assert not {"pause", "unpause"} & set(names[names.index("remove") :])
        if lent is not None and lent.state is State.BUSY:
            assert not (await bench.engine.inspect(lent.name)).paused
            bench.pool.discard(lent)
        assert await bench.present() == set()


async def test_a_container_that_ends_while_idle(bench: Bench) -> None:
    """It is removed by itself, and not lent meanwhile."""
    container = await bench.idle()
    await bench.engine.kill(container.name, "SIGKILL")
    await eventually(lambda: _gone(bench))
    assert await bench.pool.take("f.1") is None


async def _gone(bench: Bench) -> bool:
    return await bench.present() == set()


async def test_a_container_that_cannot_go_on(bench: Bench) -> None:
    """A paused container that somebody else resumed or removed is given up, and the next one is lent."""
    good = await bench.idle()
    bad = await bench.idle()
    bench.now += 20
    await bench.pool.tend()
    await bench.engine.unpause(bad.name)
    assert await bench.pool.take("f.1") is good
    assert await bench.present() == {good.name}


async def test_a_start_that_is_given_up(bench: Bench) -> None:
    """A start whose task goes away is not cut short, and its container is removed."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def delay() -> None:
        begun.set()
        await go_on.wait()

    bench.engine.delay = delay
    starting = asyncio.create_task(bench.start())
    await begun.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert len(bench.pool.names()) == 1
    go_on.set()
    assert await bench.present() == set()


async def test_a_start_that_fails(bench: Bench) -> None:
    """What was created before the failure is removed, and its memory is free again."""

    async def fail() -> None:
        raise EngineError(500, "no")

    bench.engine.delay = fail
    for _ in range(3):
        with pytest.raises(EngineError):
            await bench.start(memory=100)
    bench.engine.delay = None
    await bench.start(memory=100)


async def test_the_engine_is_away(bench: Bench) -> None:
    """Nothing is lent and nothing starts while the engine is away; then orphans are found and removed."""
    container = await bench.idle()
    bench.now += 20
    await bench.pool.tend()
    bench.engine.down = True
    with pytest.raises(EngineUnavailable):
        await bench.pool.take("f.1")
    with pytest.raises(EngineUnavailable):
        await bench.start()
    await bench.pool.settled()
    assert bench.pool.names() == set()
    bench.engine.down = False
    assert await bench.present() == {container.name}
    busy = await bench.start()
    [orphan] = await remove_orphans(bench.engine, NODE, bench.pool.names, grace=0)
    assert (orphan.kind, orphan.name) == ("container", container.name)
    assert await bench.present() == {busy.name}


async def test_the_end_is_not_the_end_of_the_stream(bench: Bench) -> None:
    """A function that closes its streams goes on; its end is noticed all the same."""
    container = await bench.start(script="exec >&- 2>&-; sleep 0.3; exit 4")
    async with asyncio.timeout(5):
        await container.ended.wait()
    assert container.last is not None
    assert container.last.exit_code == 4
    assert not container.disturbed


async def test_an_engine_that_comes_back(bench: Bench) -> None:
    """A container whose end was seen only after the engine had been away is known to be disturbed, not lost."""
    container = await bench.start(script="exit 4")
    bench.engine.down = True
    await asyncio.wait({asyncio.create_task(container.ended.wait())}, timeout=0.2)
    assert not container.ended.is_set() or container.last is not None
    bench.engine.down = False
    async with asyncio.timeout(5):
        await container.ended.wait()
    assert not container.lost
