"""Images of ours go when the disk is full, and nobody else's ever do: on the real engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import docker
import pytest

from agent.config import ImagesConfig
from agent.containers import probe_image
from agent.containers.engine import Engine, EngineError
from agent.containers.eviction import disk_of
from agent.containers.image_memory import ImageMemory
from agent.containers.images import Images, ImageUnavailable
from tests.contract.containers.registry import Registry

pytestmark = pytest.mark.engine


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = Engine()
    yield engine
    await engine.close()


@pytest.fixture
async def names(engine: Engine) -> AsyncIterator[list[str]]:
    """Images in four registries."""
    arch = (await engine.connect()).arch
    async with AsyncExitStack() as stack:
        registries = [await stack.enter_async_context(Registry(arch)) for _ in range(4)]
        yield [registry.image for registry in registries]
        for registry in registries:
            await engine.remove_image(registry.image)


class Node:
    """The images of a node whose clock and disk a test plays; a restart keeps its file."""

    def __init__(self, engine: Engine, file: Path, **settings: object) -> None:
        self.engine = engine
        self.file = file
        self.settings = settings
        self.now = time.time()
        self.levels: list[float] = []
        """What the disk is like, from one look to the next; the last one stays."""
        self.start()

    def start(self) -> None:
        async def full() -> float:
            return self.levels.pop(0) if len(self.levels) > 1 else self.levels[0]

        memory = ImageMemory(self.file, lambda: self.now)
        config = ImagesConfig(**self.settings)  # type: ignore[arg-type]
        self.images = Images(self.engine, config, lambda: 0.01, memory=memory, full=full)

    async def use(self, name: str) -> None:
        await self.images.ensure(name, lambda: None, lambda *_: None)
        self.now += 100

    async def has(self, *names: str) -> list[bool]:
        present = await self.engine.images()
        return [name in present for name in names]


async def test_the_one_unused_for_longest_goes_first(engine: Engine, names: list[str], tmp_path: Path) -> None:
    """From the high mark down to the low one, also after a restart; a disk below the high mark is left alone."""
    node = Node(engine, tmp_path / "images.json")
    for name in (names[0], names[1], names[2], names[0]):
        await node.use(name)
    node.levels = [84.9]
    assert await node.images.make_room() == []
    node.start()
    node.levels = [90, 80, 74]
    assert await node.images.make_room() == [names[1], names[2]]
    assert await node.has(*names[:3]) == [True, False, False]


async def test_what_stays(engine: Engine, names: list[str], tmp_path: Path, client: docker.APIClient) -> None:
    """One that a container is made of, one that is exempt, one just used, and one that is not ours, or not any more."""
    used, exempt, young, moved = names
    node = Node(engine, tmp_path / "images.json", exempt=[exempt.replace("small", "*")])
    theirs = f"fernd-test-theirs-{tmp_path.name}:latest".lower()
    layer = probe_image.layer("x86_64")
    assert layer is not None
    await engine.import_image(layer, *theirs.split(":"))
    for name in (theirs, used, exempt, moved, young):
        await node.use(name)
    node.now -= 70
    await engine.remove_image(moved)
    await asyncio.to_thread(client.tag, theirs, moved)
    container = (await asyncio.to_thread(client.create_container, used, [probe_image.PATH]))["Id"]
    node.levels = [99]
    try:
        assert await node.images.make_room() == []
        assert await node.has(theirs, used, exempt, moved, young) == [True] * 5
    finally:
        await engine.remove(container)
    node.now += 1000
    assert await node.images.make_room() == [young, used]  # what a container was made of counts as used until then
    await engine.remove_image(theirs)


async def test_a_full_disk_in_the_middle_of_a_pull(
    engine: Engine, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room is made and the pull tried again; where there is none to be made the reason is said. It may come later."""
    node = Node(engine, tmp_path / "images.json")
    node.levels = [50]
    await node.use(names[0])
    pull, full = engine.pull, 1

    async def no_room(*given: object, **more: object) -> None:
        nonlocal full
        full -= 1
        if full >= 0:
            raise EngineError(0, "write /var/lib/docker/tmp/x: no space left on device")
        await pull(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "pull", no_room)
    await node.use(names[1])
    assert await node.has(*names[:2]) == [False, True]
    full = 10
    node.now -= 90  # the only image of ours was just used
    with pytest.raises(ImageUnavailable, match="no space left on device"):
        await node.use(names[2])
    full = 0
    await node.use(names[2])


async def test_the_engines_own_disk(engine: Engine, tmp_path: Path) -> None:
    """It is looked at where it can be seen."""
    assert await disk_of(engine)() is None
    await engine.connect()
    level = await disk_of(engine)()
    assert level is not None
    assert 0 < level <= 100
    engine.root = str(tmp_path / "elsewhere")
    assert await disk_of(engine)() is None
