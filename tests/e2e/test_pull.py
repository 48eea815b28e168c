"""An image that is pulled, as whoever calls the function sees it: from a real registry, by the real engine."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from agent.containers.engine import Engine
from tests.contract.containers.registry import Registry
from tests.e2e.up import SECONDS, Up

pytestmark = pytest.mark.engine


async def test_bytes_of_the_image_reach_the_caller(tmp_path: Path) -> None:
    """From the engine by way of node and dispatcher to `fernd invoke`: pulling, how far it is, and the end of it."""
    engine = Engine()
    up = await asyncio.to_thread(Up, tmp_path / "d")
    try:
        async with Registry((await engine.connect()).arch) as registry:
            environ = up.environ | {"PATH": os.environ["PATH"]}
            await _fernd(environ, "function", "create", "small", "--image", registry.image, "--mode", "job")
            said = await _fernd(environ, "invoke", "small")
            await engine.remove_image(registry.image)
    finally:
        await asyncio.to_thread(up.stop)
        await engine.close()
    lines = said.splitlines()
    pulled = [re.fullmatch(r"pulled ([0-9.]+) of ([0-9.]+) MB", line) for line in lines]
    told = [(float(match[1]), float(match[2])) for match in pulled if match]
    assert told, said
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] > 2
    assert lines.index("pulling") < next(number for number, match in enumerate(pulled) if match)


async def _fernd(environ: dict[str, str], *arguments: str) -> str:
    """Run a command and give what it says on stderr."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent.cli", *arguments),
        env=environ,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(SECONDS):
        _, errors = await process.communicate()
    return errors.decode()
