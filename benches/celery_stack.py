"""Celery on a Redis server, set up as a user would: an environment of its own from PyPI, redis-server from Debian."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from benches.cloud import free_port

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE.parent / ".cache" / "bench-celery"
PACKAGES = ("celery==5.5.3", "redis==5.2.1", "docker==7.1.0", "requests==2.32.5")
START_SECONDS = 30.0
PROCESSES = 4
"""Of the worker: more of them only start containers that wait for each other on a small machine."""


class Celery:
    """A worker that runs."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._environ = environ

    async def load(self, image: str, body: str, callers: int, seconds: float) -> tuple[list[float], float]:
        """Call from so many threads for so long; gives the seconds of each call, and of all together."""
        arguments = (image, body, str(callers), str(seconds))
        process = await asyncio.create_subprocess_exec(
            *(ENVIRONMENT / "bin" / "python", HERE / "with_celery" / "callers.py", *arguments),
            stdout=asyncio.subprocess.PIPE,
            env=self._environ,
        )
        answer, _ = await process.communicate()
        found = json.loads(answer)
        return found["latencies"], found["seconds"]


def install() -> None:
    """See to it that redis-server and an environment with Celery are there."""
    if shutil.which("redis-server") is None:
        apt = ["apt-get", "install", "--yes", "--no-install-recommends", "redis-server"]
        # It starts no service: a policy says so, as it does in containers.
        subprocess.run(apt, check=True, capture_output=True, env={**os.environ, "RUNLEVEL": "1"})
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
    pip = [str(python), "-m", "pip", "-qq", "--disable-pip-version-check", "install"]
    subprocess.run([*pip, *PACKAGES], check=True)


@contextlib.asynccontextmanager
async def celery() -> AsyncIterator[Celery]:
    """Run Redis, which keeps nothing on disk, and a worker."""
    await asyncio.to_thread(install)
    with tempfile.TemporaryDirectory(prefix="fernd-bench-") as name, contextlib.ExitStack() as running:
        port = free_port()
        redis = subprocess.Popen(
            ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", name],
            stdout=subprocess.DEVNULL,
        )
        running.callback(_end, redis)
        environ = {**os.environ, "BENCH_REDIS": f"redis://127.0.0.1:{port}/0", "PYTHONWARNINGS": "ignore"}
        log = Path(name) / "worker.log"
        with log.open("wb") as file:
            worker = subprocess.Popen(
                [
                    ENVIRONMENT / "bin" / "celery",
                    "-A",
                    "function",
                    "worker",
                    "--loglevel=INFO",
                    f"--concurrency={PROCESSES}",
                ],
                cwd=HERE / "with_celery",
                env=environ,
                stdout=file,
                stderr=file,
            )
        running.callback(_end, worker)
        async with asyncio.timeout(START_SECONDS):
            while b" ready." not in log.read_bytes():
                await asyncio.sleep(0.1)
        yield Celery(environ)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(60)
