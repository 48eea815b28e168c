"""The machine is measured within the bounds of the agent's cgroup, in both versions."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import pytest

from agent.capabilities import MIB, Machine, measure

CPUS = float(len(os.sched_getaffinity(0)))
MEMORY = psutil.virtual_memory().total // MIB


Measured = Callable[[str, Mapping[str, str]], Machine]


@pytest.fixture
def machine(tmp_path: Path) -> Measured:
    def make(own: str, files: Mapping[str, str]) -> Machine:
        proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
        for file, content in {
            proc / "self" / "cgroup": own,
            **{cgroup / name: text for name, text in files.items()},
        }.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        return measure(proc, cgroup)

    return make


CASES: dict[str, tuple[str, dict[str, str], float, int]] = {
    "no cgroups at all": ("", {}, CPUS, MEMORY),
    "v2, no limit": ("0::/a\n", {"a/cpu.max": "max 100000\n", "a/memory.max": "max\n"}, CPUS, MEMORY),
    "v2, own limit": ("0::/a/b\n", {"a/b/cpu.max": "50000 100000\n", "a/b/memory.max": f"{64 * MIB}\n"}, 0.5, 64),
    "v2, a limit above": (
        "0::/a/b/c\n",
        {
            "a/cpu.max": "25000 100000",
            "a/b/cpu.max": "max 100000",
            "a/b/c/memory.max": f"{99 * MIB}",
            "a/memory.max": f"{64 * MIB}",
        },
        0.25,
        64,
    ),
    "v2, a container's root": ("0::/\n", {"cpu.max": "10000 100000", "memory.max": f"{32 * MIB}"}, 0.1, 32),
    "v2, outside of its namespace": ("0::/../../x\n", {"cpu.max": "10000 100000"}, 0.1, MEMORY),
    "v1, own limits": (
        "4:memory:/a\n3:cpu,cpuacct:/b\n",
        {
            "memory/a/memory.limit_in_bytes": f"{128 * MIB}\n",
            "cpu,cpuacct/b/cpu.cfs_quota_us": "50000\n",
            "cpu,cpuacct/b/cpu.cfs_period_us": "100000\n",
        },
        0.5,
        128,
    ),
    "v1, no limits": (
        "4:memory:/a\n3:cpu,cpuacct:/b\n",
        {
            "memory/a/memory.limit_in_bytes": "9223372036854771712\n",
            "cpu,cpuacct/b/cpu.cfs_quota_us": "-1\n",
            "cpu,cpuacct/b/cpu.cfs_period_us": "100000\n",
        },
        CPUS,
        MEMORY,
    ),
    "v1, in a container that sees the host's path": (
        "4:memory:/docker/0123\n3:cpu:/docker/0123\n0::/docker/0123\n",
        {
            "memory/memory.limit_in_bytes": f"{256 * MIB}\n",
            "cpu/cpu.cfs_quota_us": "20000\n",
            "cpu/cpu.cfs_period_us": "100000\n",
        },
        0.2,
        256,
    ),
    "nonsense": ("what\n::\n0::/a\n", {"a/cpu.max": "none", "a/memory.max": "-5"}, CPUS, MEMORY),
}


@pytest.mark.parametrize(("own", "files", "cpus", "memory"), CASES.values(), ids=CASES)
def test_the_bounds_of_the_own_cgroup_hold(
    machine: Measured, own: str, files: Mapping[str, str], cpus: float, memory: int
) -> None:
    """The smallest bound on the way up counts, and none is made up."""
    assert machine(own, files) == Machine(cpus, memory)


def test_this_machine_can_be_measured() -> None:
    """The real files give something usable that is not more than the machine has."""
    found = measure()
    assert 0 < found.cpu_count <= CPUS
    assert 0 < found.mem_size <= MEMORY
