"""What can be read of the machine: power, heat, disk, network. Each function takes the root of the files it reads."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

MIB = 1024 * 1024
ROOT = Path("/")

NMCLI = ("nmcli",)
_NMCLI_SECONDS = 5.0

_OF_CPU = ("coretemp", "k10temp", "zenpower", "cpu", "soc", "x86_pkg_temp", "acpitz")
"""Beginnings of the names of sensors that stand at the CPU; a hot disk is no reason to rest the CPU."""

_MAINS = {"Mains", "USB", "Wireless"}


def power(root: Path = ROOT) -> tuple[bool | None, float | None]:
    """Say whether the machine runs on its battery, and how many percent are left in the emptiest."""
    mains: list[bool] = []
    batteries: list[tuple[str, float | None]] = []
    for supply in sorted(root.glob("sys/class/power_supply/*")):
        kind = _text(supply / "type")
        if _text(supply / "scope") == "Device":
            continue  # of a mouse or a headset
        if kind in _MAINS and (online := _text(supply / "online")):
            mains.append(online != "0")
        elif kind == "Battery":
            batteries.append((_text(supply / "status"), _number(supply / "capacity")))
    if not batteries:
        return (not any(mains) if mains else None), None
    level = min((level for _, level in batteries if level is not None), default=None)
    if mains:
        return not any(mains), level
    return any(status == "Discharging" for status, _ in batteries), level


def temperature(root: Path = ROOT) -> float | None:
    """Give the degrees Celsius of the hottest sensor at the CPU, or in the machine where none is known to be there."""
    sensors = [(_text(zone / "type"), zone / "temp") for zone in root.glob("sys/class/thermal/thermal_zone*")]
    for chip in root.glob("sys/class/hwmon/hwmon*"):
        sensors += [(_text(chip / "name"), file) for file in chip.glob("temp*_input")]
    found = [(name, value / 1000) for name, file in sensors if (value := _number(file)) is not None]
    at_cpu = [value for name, value in found if name.lower().startswith(_OF_CPU)]
    return max(at_cpu or [value for _, value in found], default=None)


def disk_free(directories: Iterable[Path]) -> int | None:
    """Give the MiB that are free where least are; directories that are not there are passed over."""
    free = []
    for directory in directories:
        with suppress(OSError):
            free.append(psutil.disk_usage(str(directory)).free // MIB)
    return min(free, default=None)


async def metered(root: Path = ROOT, nmcli: Sequence[str] = NMCLI) -> bool | None:
    """Say whether the way to the internet is paid for by the byte.

    NetworkManager is asked where it is there, also for its guess. Without it only a mobile modem is known to be such.
    """
    interface = default_interface(root)
    if interface is None:
        return None
    said = await _ask(*nmcli, "--get-values", "GENERAL.METERED", "device", "show", interface)
    if said.startswith(("yes", "no")):
        return said.startswith("yes")
    return True if "DEVTYPE=wwan" in _text(root / "sys/class/net" / interface / "uevent").splitlines() else None


def default_interface(root: Path = ROOT) -> str | None:
    """Name the interface of the default route; the one with the lowest metric where there are several."""
    routes = []
    for line in _text(root / "proc/net/route").splitlines()[1:]:
        fields = line.split()
        if len(fields) > 7 and fields[1] == "00000000" and fields[7] == "00000000":
            routes.append((int(fields[6]), fields[0]))
    return min(routes)[1] if routes else None


async def _ask(*command: str) -> str:
    """Give what a command prints; nothing where it cannot be run, fails, or takes too long."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )
    except OSError:
        return ""
    try:
        async with asyncio.timeout(_NMCLI_SECONDS):
            printed, _ = await process.communicate()
    except TimeoutError:
        return ""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return printed.decode("utf-8", "replace").strip() if process.returncode == 0 else ""


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _number(file: Path) -> float | None:
    text = _text(file)
    return float(text) if text.removeprefix("-").isdigit() else None
