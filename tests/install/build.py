"""Wheels and packages of the present tree, and of later versions of it: sound ones, and one that cannot start."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PARTS = ("agent", "dispatcher", "systemd", "deploy", "pyproject.toml", "requirements.lock", "README.md", "LICENSE")


def wheels(directory: Path) -> Path:
    """Collect the wheels that this tree is installed from; only those of Debian 12's Python."""
    command = [sys.executable, str(ROOT / "deploy/wheelhouse.py"), str(directory), "--python", "3.11"]
    subprocess.run(command, check=True)
    return directory


def package(directory: Path, tree: Path = ROOT) -> Path:
    """Build the Debian package of a tree, for this machine's architecture."""
    done = subprocess.run(
        [str(tree / "deploy/build-deb.sh"), "", str(directory)], check=True, capture_output=True, text=True
    )
    return Path(done.stdout.strip())


def later_package(directory: Path, version: str) -> Path:
    """Build a package of this tree under another version."""
    tree = _tree(directory / f"{version}.tree", version)
    (tree / ".venv").symlink_to(ROOT / ".venv")
    return package(directory, tree)


def later(before: Path, directory: Path, version: str, *, sound: bool = True) -> Path:
    """Make wheels like those of ``before``, with a fernd of another version.

    Args:
        sound: Its agent can start.
    """
    tree = _tree(directory.with_name(directory.name + ".tree"), version)
    if not sound:
        _replace(
            tree / "agent/daemon.py", "import asyncio\n", 'import asyncio\nraise SystemExit("this build is broken")\n'
        )
    shutil.copytree(before, directory, ignore=shutil.ignore_patterns("fernd-*"))
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(directory)]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
    return directory


def _tree(tree: Path, version: str) -> Path:
    """Copy this tree, as another version."""
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            tree.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, tree / part)
    _replace(tree / "pyproject.toml", 'version = "0.1.0"', f'version = "{version}"')
    _replace(tree / "agent/__init__.py", '"0.1.0"', f'"{version}"')
    return tree


def _replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
