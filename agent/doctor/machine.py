"""The machine: control groups, the kernel, disks, rights. Nothing here asks anybody else."""

from __future__ import annotations

import os
from pathlib import Path

from agent.doctor.findings import Finding

MIB = 1024 * 1024
LITTLE_DISK = 1024 * MIB
"""Less free than this is little: an image and its layers hardly fit."""

NO_DISK = 64 * MIB
FEW_INODES = 0.05
"""Less than this share of a disk's inodes is few: an image has tens of thousands of files."""

CONTROLLERS = ("cpu", "memory", "pids")
_CAP_SYS_PTRACE, _CAP_SYS_ADMIN = 19, 21
_PI = "on a Raspberry Pi add `cgroup_enable=memory cgroup_memory=1` to /boot/firmware/cmdline.txt and start it anew"


def control_groups(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> Finding:
    """Look for the controllers that bound a function."""
    unified = cgroup / "cgroup.controllers"
    try:
        if unified.exists():
            version, found = 2, unified.read_text().split()
        else:
            version = 1
            rows = [line.split() for line in (proc / "cgroups").read_text().splitlines() if not line.startswith("#")]
            found = [row[0] for row in rows if row[3] == "1"]
    except (OSError, IndexError) as error:
        return Finding("cgroup", "skipped", f"control groups cannot be seen from here: {error}")
    seen = f"version {version}, controllers {', '.join(sorted(found)) or 'none'}"
    missing = [name for name in CONTROLLERS if name not in found]
    if missing:
        return Finding(
            "cgroup", "failed", f"{seen}; missing: {', '.join(missing)}", f"enable them in the kernel; {_PI}"
        )
    return Finding("cgroup", "ok", seen)


def kernel(proc: Path = Path("/proc")) -> Finding:
    """Look for what containers are made of."""
    seen = f"Linux {os.uname().release}"
    missing = [f"{name} namespaces" for name in ("net", "pid", "mnt", "ipc") if not (proc / "self/ns" / name).exists()]
    try:
        if "overlay" not in (proc / "filesystems").read_text().split():
            missing.append("overlayfs (or its module is not loaded)")
        if "Seccomp:" not in (proc / "self/status").read_text():
            missing.append("seccomp")
    except OSError as error:
        return Finding("kernel", "skipped", f"{seen}; /proc cannot be read: {error}")
    if missing:
        return Finding("kernel", "warning", f"{seen}, without {', '.join(missing)}", "use a kernel that has them")
    return Finding("kernel", "ok", f"{seen}, with namespaces, overlayfs and seccomp")


def disk(name: str, path: Path, cure: str) -> Finding:
    """Look at the bytes and inodes that are free where a path lies.

    Args:
        name: What lies there; the check is named after it.
        cure: How to make room there.
    """
    check = f"disk-{name}"
    place = next((each for each in (path, *path.parents) if each.exists()), Path("/"))
    try:
        found = os.statvfs(place)
    except OSError as error:
        return Finding(check, "skipped", f"{place} cannot be looked at: {error.strerror}")
    free, inodes = found.f_bavail * found.f_frsize, found.f_favail
    room = f"{free / MIB / 1024:.1f} GiB" if free >= LITTLE_DISK else f"{free // MIB} MiB"
    seen = room + (f" and {inodes} inodes" if found.f_files else "") + f" free at {place}"
    few = found.f_files > 0 and inodes < FEW_INODES * found.f_files
    if free < NO_DISK or (found.f_files > 0 and inodes < 100):
        return Finding(check, "failed", seen, cure)
    if free < LITTLE_DISK or few:
        return Finding(check, "warning", seen, cure)
    return Finding(check, "ok", seen)


def rights(reach: str, proc: Path = Path("/proc")) -> Finding:
    """Look whether the way to containers without a network is open to this process.

    Args:
        reach: The setting ``containers.reach``.
    """
    try:
        status = (proc / "self/status").read_text()
        held = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), 16)
    except (OSError, StopIteration, ValueError) as error:
        return Finding("rights", "skipped", f"the rights of this process cannot be seen: {error}")
    lacks = [
        name
        for name, bit in (("CAP_SYS_ADMIN", _CAP_SYS_ADMIN), ("CAP_SYS_PTRACE", _CAP_SYS_PTRACE))
        if not held & 1 << bit
    ]
    if not lacks and _in_own_pids(proc):
        lacks = ["the /proc of the host"]
    if not lacks:
        return Finding("rights", "ok", "CAP_SYS_ADMIN, CAP_SYS_PTRACE and the /proc of the host")
    seen = f"user {os.geteuid()} lacks {' and '.join(lacks)}: functions without a network cannot be reached directly"
    cure = "run the doctor as the agent's user, or give the agent these rights; otherwise it goes another, slower way"
    return Finding("rights", "failed" if reach == "namespace" else "warning", seen, cure)


def _in_own_pids(proc: Path) -> bool:
    """Say whether process numbers are a container's own: the kernel's first thread is missing then."""
    try:
        return (proc / "2/comm").read_text().strip() != "kthreadd"
    except OSError:
        return True
