"""What is read of a machine, from trees of files as kernels have them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import psutil
import pytest

from agent.owner.command import ask
from agent.owner.others import OthersLoad
from agent.owner.pause import FILE, Pause, load, store
from agent.owner.sensors import default_interface, disk_free, metered, power, temperature

ROUTES = (
    "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
    "wwan0\t00000000\t0100A8C0\t0003\t0\t0\t700\t00000000\t0\t0\t0\n"
    "eth0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
    "eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


def supply(name: str, **files: str) -> dict[str, str]:
    return {f"sys/class/power_supply/{name}/{file}": text for file, text in files.items()}


BATTERY = supply("BAT0", type="Battery", status="Discharging", capacity="61")
SECOND = supply("BAT1", type="Battery", status="Full", capacity="97")
MOUSE = supply("hid", type="Battery", scope="Device", status="Discharging", capacity="3")


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, (None, None)),
        (MOUSE, (None, None)),
        (BATTERY | SECOND | MOUSE | supply("AC", type="Mains", online="0"), (True, 61.0)),
        (BATTERY | supply("AC", type="Mains", online="1"), (False, 61.0)),
        (BATTERY | supply("AC", type="Mains", online="0") | supply("C", type="USB", online="1"), (False, 61.0)),
        (BATTERY, (True, 61.0)),
        (SECOND, (False, 97.0)),
        (supply("AC", type="Mains", online="1"), (False, None)),
    ],
)
def test_power(files: dict[str, str], found: object, tmp_path: Path) -> None:
    """The emptiest battery counts, any plug is mains power, and a mouse's battery is its own affair."""
    assert power(write(tmp_path, files)) == found


def test_temperature(tmp_path: Path) -> None:
    """The hottest sensor at the CPU counts; a hot disk only where nothing is known to be at the CPU."""
    assert temperature(tmp_path) is None
    hwmon = "sys/class/hwmon/hwmon"
    write(tmp_path, {f"{hwmon}0/name": "nvme", f"{hwmon}0/temp1_input": "84850"})
    assert temperature(tmp_path) == 84.85
    write(tmp_path, {f"{hwmon}1/name": "coretemp", f"{hwmon}1/temp1_input": "51000", f"{hwmon}1/temp2_input": "56000"})
    assert temperature(tmp_path) == 56.0
    zone = "sys/class/thermal/thermal_zone0"
    write(tmp_path, {f"{zone}/type": "cpu-thermal", f"{zone}/temp": "61200"})
    assert temperature(tmp_path) == 61.2


def test_disk_free(tmp_path: Path) -> None:
    """The fuller of the disks that are there."""
    free = psutil.disk_usage(str(tmp_path)).free // 1024**2
    found = disk_free([tmp_path, tmp_path / "missing"])
    assert found is not None
    assert abs(found - free) < 1024
    assert disk_free([tmp_path / "missing"]) is None


@pytest.mark.parametrize(
    ("says", "found"),
    [("yes", True), ("yes (guessed)", True), ("no", False), ("no (guessed)", False), ("unknown", None), (None, None)],
)
async def test_metered_by_network_manager(says: str | None, found: bool | None, tmp_path: Path) -> None:
    """Its word holds, also its guess, about the interface that the default route with the lowest metric names."""
    write(tmp_path, {"proc/net/route": ROUTES})
    nmcli = tmp_path / "nmcli"
    if says is not None:
        nmcli.write_text(f'#!/bin/sh\n[ "$5" = eth0 ] && echo "{says}"\n')
        nmcli.chmod(0o755)
    assert default_interface(tmp_path) == "eth0"
    assert await metered(tmp_path, [str(nmcli)]) is found


async def test_metered_without_network_manager(tmp_path: Path) -> None:
    """A mobile modem is known to be metered, anything else is not known, nor is a machine without a route."""
    assert await metered(tmp_path, ["/no/nmcli"]) is None
    modem = ROUTES.replace("\t100\t", "\t900\t")
    write(tmp_path, {"proc/net/route": modem, "sys/class/net/wwan0/uevent": "DEVTYPE=wwan\nINTERFACE=wwan0"})
    assert await metered(tmp_path, ["/no/nmcli"]) is True


async def test_the_owners_command(tmp_path: Path) -> None:
    """Exit code 0 is a yes; else its first line is the reason, and every way to fail is a no that says how."""
    assert await ask(["/bin/true"], 10) == ""
    assert await ask(["/bin/sh", "-c", "echo 312 W from the roof; exit 0"], 10) == ""
    assert await ask(["/bin/sh", "-c", "printf 'only 12 W\\t\\033[1m\\nmore\\n'; exit 1"], 10) == "only 12 W[1m"
    assert await ask(["/bin/sh", "-c", "exit 3"], 10) == "available_when said no, with exit code 3"
    assert await ask(["/bin/sh", "-c", "yes | head -c 200000; exit 1"], 10) == "y"
    assert await ask([str(tmp_path / "missing")], 10) == "available_when cannot be run: No such file or directory"
    mark = "300.0625"
    said = await ask(["/bin/sh", "-c", f"sleep {mark} & wait"], 0.5)
    assert said == "available_when did not end within 0.5 s"
    async with asyncio.timeout(10):
        while any(mark in each.info["cmdline"] for each in psutil.process_iter(["cmdline"]) if each.info["cmdline"]):
            await asyncio.sleep(0.01)


def test_others_load() -> None:
    """CPU time of this process and of functions is not others'; without the functions' it cannot be told."""
    now = 0.0
    functions: dict[str, float] | None = {"f": 1.0}
    others = OthersLoad(lambda: functions, lambda: now)
    assert others.read() is None
    begun = os.times()
    while os.times().user + os.times().system - begun.user - begun.system < 0.2:
        pass
    # As if all that this machine did since were this process's and the function's.
    now, functions = 1.0, {"f": 1000.0, "g": 1000.0}
    assert others.read() == 0.0
    functions = None
    assert others.read() is None


def test_a_pause_outlives_the_process(tmp_path: Path) -> None:
    """It is on the disk, ends by the wall clock, and one that cannot be read holds."""
    assert load(tmp_path) is None
    store(tmp_path, Pause(1000.0))
    found = load(tmp_path)
    assert found == Pause(1000.0)
    assert found.reason(999.0).startswith("paused on the machine itself until ")
    assert found.reason(1000.0) == ""
    (tmp_path / FILE).write_text("{")
    assert load(tmp_path) == Pause()
    store(tmp_path, None)
    store(tmp_path, None)
    assert load(tmp_path) is None
