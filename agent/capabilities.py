"""What this node is: CPUs and memory that it may really use.

The machine's figures are only the upper bound. A container or a systemd slice gives less through
its cgroup, at any level above the process, and an affinity mask fewer CPUs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Machine:
    """CPUs and MiB of memory that the agent and its functions may use."""

    cpu_count: float
    mem_size: int


def measure(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> Machine:
    """Measure the machine within the bounds of the agent's own cgroup and affinity."""
    cpus = _usable_cpus()
    memory = psutil.virtual_memory().total
    for directory in _own_cgroups(proc, cgroup):
        cpus = min(cpus, _cpu_bound(directory, cpus))
        memory = min(memory, _memory_bound(directory, memory))
    return Machine(round(cpus, 3), memory // MIB)


def _usable_cpus() -> float:
    if hasattr(os, "sched_getaffinity"):
        return float(len(os.sched_getaffinity(0)))
    return float(psutil.cpu_count() or 1)


def _own_cgroups(proc: Path, cgroup: Path) -> Iterator[Path]:
    """List the directories that bound this process: its cgroup of every hierarchy, and all above it.

    In a container the path may be the host's while only the container's part is mounted, as the root:
    directories that are not there are passed over, and the root always counts.
    """
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        parts = [part for part in PurePosixPath(path).parts if part not in {"/", ".."}]
        for hierarchy in [controllers, *controllers.split(",")] if controllers else ["", "unified"]:
            for depth in range(len(parts), -1, -1):
                yield cgroup.joinpath(hierarchy, *parts[:depth])


def _cpu_bound(directory: Path, otherwise: float) -> float:
    quota, _, period = _read(directory / "cpu.max").partition(" ")
    if not quota:
        quota, period = _read(directory / "cpu.cfs_quota_us"), _read(directory / "cpu.cfs_period_us")
    # "max" in v2 and -1 in v1 mean no bound.
    if quota.isdigit() and period.isdigit() and int(quota) > 0 and int(period) > 0:
        return int(quota) / int(period)
    return otherwise


def _memory_bound(directory: Path, otherwise: int) -> int:
    limit = _read(directory / "memory.max") or _read(directory / "memory.limit_in_bytes")
    return int(limit) if limit.isdigit() and int(limit) > 0 else otherwise


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
