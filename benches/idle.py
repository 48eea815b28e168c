"""What an agent costs that has nothing to do: resident memory, and CPU.

It runs in an environment of its own with what fernd needs to run and nothing else, as an installed agent does, joined
to a dispatcher. It is looked at when it has settled. What each part of the memory is due to is found by importing the
parts one after the other in a new interpreter.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

from benches.cloud import cloud
from benches.figures import Figure

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".cache" / "bench-runtime"
SETTLE_SECONDS = 5.0
SECONDS = 30.0

PARTS = ("asyncio", "aiohttp", "aiohttp.web", "psutil", "structlog", "msgspec", "click", "agent.daemon")
_BY_PART = """
import sys
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20
before = resident()
print("interpreter", before)
for part in sys.argv[1:]:
    __import__(part)
    print(part, resident() - before)
    before = resident()
"""


async def run(details: dict[str, Any], seconds: float = SECONDS) -> list[Figure]:
    """Measure."""
    python = await asyncio.to_thread(runtime_python)
    by_part = subprocess.run([python, "-c", _BY_PART, *PARTS], check=True, capture_output=True, text=True).stdout
    details["import_mib"] = {part: round(float(mib), 1) for part, mib in map(str.split, by_part.splitlines())}
    async with cloud(agent_python=python) as system:
        await asyncio.sleep(SETTLE_SECONDS)
        before = system.agent.cpu_seconds()
        await asyncio.sleep(seconds)
        percent = (system.agent.cpu_seconds() - before) / seconds * 100
        resident = system.agent.resident_mib()
        details["threads"] = len(list(Path(f"/proc/{system.agent.pid}/task").iterdir()))
    note = f"over {seconds:g} s, {SETTLE_SECONDS:g} s after its start"
    return [
        Figure("agent idle: resident memory", resident, at_most=48, unit="MiB", note="runtime dependencies only"),
        Figure("agent idle: CPU", percent, at_most=0.3, unit="% of a core", note=note),
    ]


def runtime_python() -> str:
    """See to it that there is an environment with fernd and what it needs to run, and give its Python."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
    pip = [str(python), "-m", "pip", "-qq", "--disable-pip-version-check", "install"]
    locked = ENVIRONMENT / "constraints.txt"
    locked.write_text("".join(f"{pin}\n" for pin in _pins((ROOT / "requirements.lock").read_text())))
    subprocess.run([*pip, "--constraint", str(locked), str(ROOT)], check=True)
    return str(python)


def _pins(lock: str) -> list[str]:
    """Give the versions of a lock file without its hashes."""
    return [
        line.partition(";")[0].partition("\\")[0].strip()
        for line in lock.splitlines()
        if "==" in line and line[0].isalnum()
    ]
