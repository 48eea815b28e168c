# ruff: noqa: INP001 - a script beside shell scripts, in no package
"""Collects the wheels that a machine without a network installs fernd from: fernd's own, all it needs, and pip's.

    wheelhouse.py DIR                                 for this machine's architecture
    wheelhouse.py DIR --arch arm64 --python 3.11      for another one
    wheelhouse.py --check --arch arm64                only says for each dependency whether there is a wheel

The versions and hashes are those of requirements.lock. It runs in .venv, as `make setup` makes it.
"""

from __future__ import annotations

import argparse
import platform
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent

PYTHONS = ("3.11", "3.12", "3.13")
"""Debian 12 and Raspberry Pi OS of 2023, Ubuntu 24.04, Debian 13 and Raspberry Pi OS of 2025."""

MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}

GLIBC = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014")
"""What the oldest of these systems can run; Debian 12 has glibc 2.36."""

EXTRAS = ("postgres",)
"""Extras that the wheelhouse serves too, where fernd has them."""


def needed(package: str, extras: frozenset[str] = frozenset()) -> set[str]:
    """Name the packages that one needs on Linux, and those that they need, as they are installed here."""
    found: set[str] = set()
    for line in metadata.requires(package) or ():
        requirement = Requirement(line)
        environments = [{"extra": extra, "sys_platform": "linux"} for extra in (*extras, "")]
        if requirement.marker and not any(requirement.marker.evaluate(environment) for environment in environments):
            continue
        name = canonicalize_name(requirement.name)
        found |= {name} | needed(name, frozenset(requirement.extras))
    return found


def locked(names: set[str]) -> str:
    """Give the part of requirements.lock that concerns some packages."""
    blocks = re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text(encoding="utf-8"))
    chosen = [block for block in blocks if canonicalize_name(re.split(r"[=\[ ]", block, maxsplit=1)[0]) in names]
    missing = names - {canonicalize_name(re.split(r"[=\[ ]", block, maxsplit=1)[0]) for block in chosen}
    if missing:
        raise SystemExit(f"wheelhouse: requirements.lock lacks {', '.join(sorted(missing))}: run 'make lock'")
    return "\n".join(chosen) + "\n"


def download(directory: Path, requirements: Path, arch: str, python: str) -> subprocess.CompletedProcess[str]:
    """Have pip fetch wheels, and nothing but wheels, for a machine that need not be this one."""
    digits = python.replace(".", "")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--require-hashes", "--requirement", str(requirements), "--dest", str(directory)]
    command += ["--implementation", "cp", "--python-version", python]
    command += [part for abi in (f"cp{digits}", "abi3", "none") for part in ("--abi", abi)]
    command += [part for glibc in GLIBC for part in ("--platform", f"{glibc}_{MACHINES[arch]}")]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def check(arch: str, pythons: list[str], names: set[str]) -> int:
    """Say for each dependency whether there is a wheel; 1 where one is missing."""
    absent = 0
    with tempfile.TemporaryDirectory() as work:
        for python in pythons:
            for name in sorted(names):
                requirements, wheels = Path(work, f"{name}.txt"), Path(work, python, name)
                requirements.write_text(locked({name}), encoding="utf-8")
                done = download(wheels, requirements, arch, python)
                got = [file.name for file in wheels.glob("*.whl")]
                absent += not got
                last = (done.stderr.strip().splitlines() or ["nothing was downloaded"])[-1]
                sys.stdout.write(f"{arch}  Python {python}  {got[0] if got else f'{name}: NO WHEEL: {last}'}\n")
    return 1 if absent else 0


def collect(directory: Path, arch: str, pythons: list[str], names: set[str]) -> None:
    """Fill a directory with wheels."""
    directory.mkdir(parents=True, exist_ok=True)
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(directory.resolve())]
    subprocess.run(build, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as work:
        requirements = Path(work, "requirements.txt")
        requirements.write_text(locked(names | {"pip"}), encoding="utf-8")
        for python in pythons:
            done = download(directory, requirements, arch, python)
            if done.returncode != 0:
                raise SystemExit(f"wheelhouse: Python {python}, {arch}: {done.stderr.strip()}")


def main() -> None:
    """Run the command line."""
    here = {machine: arch for arch, machine in MACHINES.items()}.get(platform.machine(), "amd64")
    parser = argparse.ArgumentParser(description="Collect the wheels that fernd is installed from without a network.")
    parser.add_argument("directory", type=Path, nargs="?")
    parser.add_argument("--arch", choices=MACHINES, default=here)
    parser.add_argument("--python", action="append", metavar="X.Y", help=f"default: {', '.join(PYTHONS)}")
    parser.add_argument("--check", action="store_true", help="download nothing that stays, only say what there is")
    arguments = parser.parse_args()
    names = needed("fernd", frozenset(EXTRAS))
    pythons = arguments.python or list(PYTHONS)
    if arguments.check:
        sys.exit(check(arguments.arch, pythons, names))
    if arguments.directory is None:
        parser.error("expected a directory, or --check")
    collect(arguments.directory, arguments.arch, pythons, names)


if __name__ == "__main__":
    main()
