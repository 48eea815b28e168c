"""What fernd is installed with: units, scripts and wheel, as far as that can be seen without a machine for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

UNITS = {"fernd-agent.service": 4.0, "fernd-dispatcher.service": 2.5}
"""Each unit, and the exposure below which it must stay."""


def run(*command: str, **environ: str) -> str:
    """Run a command; give what it printed on stdout."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=50, env=os.environ | environ
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def needs(tool: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed")


@needs("systemd-analyze")
@pytest.mark.parametrize("unit", UNITS)
def test_units_are_sealed(unit: str) -> None:
    """The score of systemd's own analysis stays below what was set."""
    last = run("systemd-analyze", "security", "--offline=true", "--no-pager", f"systemd/{unit}").splitlines()[-1]
    assert float(last.partition(f"{unit}: ")[2].split()[0]) < UNITS[unit]


@needs("systemd-analyze")
@pytest.mark.parametrize("unit", UNITS)
def test_units_say_nothing_unknown(unit: str, tmp_path: Path) -> None:
    """Systemd knows every line, with the program where it will be."""
    text = (ROOT / "systemd" / unit).read_text().replace("/opt/fernd/current/bin/fernd", "/bin/true")
    (tmp_path / unit).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(tmp_path / unit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert unit not in done.stderr, done.stderr


def test_each_open_right_is_explained() -> None:
    """What a unit leaves open stands in a part of its own, and each line of it below a comment."""
    for unit in UNITS:
        opened = (
            (ROOT / "systemd" / unit).read_text().partition("# What is left open")[2].partition("# What is shut")[0]
        )
        lines = opened.splitlines()[1:]
        settings = [number for number, line in enumerate(lines) if line and not line.startswith("#")]
        assert settings
        for number in settings:
            assert lines[number - 1].startswith("#") or number - 1 in settings, lines[number]


@needs("shellcheck")
def test_scripts_are_sound() -> None:
    """No script has what shellcheck warns of."""
    names = ("preinst", "postinst", "prerm", "postrm")
    scripts = [*ROOT.glob("deploy/**/*.sh"), *(ROOT / "deploy/deb" / name for name in names)]
    run("shellcheck", *map(str, scripts))


def test_the_installer_asks_nothing_and_explains_itself() -> None:
    """Wrong arguments are refused in a sentence, before anything is touched."""
    assert "--dispatcher URL" in run("deploy/install.sh", "--help")
    for arguments, said in (
        (["--dispatcher", "http://127.0.0.1"], "--dispatcher wants --token"),
        (["--token", "t"], "--token wants --dispatcher"),
        (["--purge"], "--purge goes with --uninstall"),
        (["--no-such"], "no such option"),
        (["--from"], "a value is missing"),
    ):
        done = subprocess.run(
            ["deploy/install.sh", *arguments], capture_output=True, text=True, check=False, cwd=ROOT, timeout=30
        )
        assert done.returncode == 1
        assert said in done.stderr


def test_the_units_travel_in_the_wheel(tmp_path: Path) -> None:
    """A wheel alone is enough: the installer takes units, user and directories from it."""
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path))
    [wheel] = tmp_path.glob("*.whl")
    names = run(sys.executable, "-m", "zipfile", "--list", str(wheel))
    for name in (*UNITS, "fernd.sysusers", "fernd.tmpfiles"):
        assert f"data/share/fernd/systemd/{name}" in names
