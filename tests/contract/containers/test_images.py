"""Images are pulled from a real registry by the real engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.config import ImagesConfig
from agent.containers.engine import Engine
from agent.containers.images import Images, ImageUnavailable
from agent.invocation import GaveBack
from tests.contract.containers.calls import Caller, eventually, revision, running_host
from tests.contract.containers.registry import Registry

pytestmark = pytest.mark.engine


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = Engine()
    yield engine
    await engine.close()


@pytest.fixture
async def registry(engine: Engine) -> AsyncIterator[Registry]:
    facts = await engine.connect()
    async with Registry(facts.arch) as registry:
        yield registry
        await engine.remove_image(registry.image)


def images(engine: Engine, pull_timeout: float = 20.0) -> Images:
    return Images(engine, ImagesConfig(pull_timeout=pull_timeout), chance=lambda: 0.01)


class Told:
    def __init__(self) -> None:
        self.pulling = 0
        self.bytes: list[tuple[int, int]] = []

    def begins(self) -> None:
        self.pulling += 1

    def pulled(self, done: int, total: int) -> None:
        self.bytes.append((done, total))


async def test_one_pull_for_many(engine: Engine, registry: Registry) -> None:
    """Many tasks that wait for an image cause one pull, and all hear its progress; afterwards none is needed."""
    store, told = images(engine), [Told() for _ in range(5)]
    registry.open.clear()
    waiting = [asyncio.create_task(store.ensure(registry.image, each.begins, each.pulled)) for each in told]
    await eventually(lambda: _true(registry.pulls > 0))
    waiting[0].cancel()
    await asyncio.gather(waiting[0], return_exceptions=True)
    registry.open.set()
    pulled = await asyncio.gather(*waiting[1:])
    assert {image.id for image in pulled} == {(await engine.image(registry.image)).id}
    assert registry.pulls == 1
    assert all(each.bytes and each.bytes[-1][0] == each.bytes[-1][1] > 0 for each in told[1:])
    assert registry.image in store.present

    again = Told()
    await store.ensure(registry.image, again.begins, again.pulled)
    assert (again.pulling, registry.pulls) == (0, 1)


async def _true(value: bool) -> bool:
    return value


async def test_nobody_waits_any_more(registry: Registry, tmp_path: Path) -> None:
    """A task that waits for a pull is given back at once when the node drains; the pull is given up, and begun anew."""
    registry.open.clear()
    async with running_host() as host:
        invocation = Caller(host, tmp_path).prepare(revision(image=registry.image, mode="job"))
        waiting = asyncio.create_task(invocation.run())
        await eventually(lambda: _true(registry.pulls > 0))
        invocation.stop("drained")
        async with asyncio.timeout(5):
            assert await waiting == GaveBack("drained", started=False)
        registry.open.set()
        told = Told()
        await host.image_store.ensure(registry.image, told.begins, told.pulled)
        assert told.pulling == 1


async def test_an_unknown_image_is_final(engine: Engine, registry: Registry) -> None:
    """What the registry does not know is not asked for again."""
    begun = asyncio.get_running_loop().time()
    slow = Images(engine, ImagesConfig(pull_timeout=20.0), chance=lambda: 1.0)
    with pytest.raises(ImageUnavailable, match=r"cannot be pulled.*(not found|unknown)"):
        await slow.ensure(f"{registry.address}/other:latest", lambda: None, lambda *_: None)
    with pytest.raises(ImageUnavailable, match="reference"):
        await slow.ensure("NOT a reference", lambda: None, lambda *_: None)
    assert asyncio.get_running_loop().time() - begun < 2.0


async def test_a_passing_error_is_tried_again(engine: Engine, registry: Registry) -> None:
    """A registry that fails once is asked again."""
    registry.failures = 1
    await images(engine).ensure(registry.image, lambda: None, lambda *_: None)
    assert registry.failures == 0


async def test_a_pull_has_its_own_time_limit(engine: Engine, registry: Registry) -> None:
    """A pull that goes on for too long ends as an image that is not to be had."""
    registry.open.clear()
    with pytest.raises(ImageUnavailable, match=r"within 0.5 s"):
        await images(engine, pull_timeout=0.5).ensure(registry.image, lambda: None, lambda *_: None)
    registry.open.set()
