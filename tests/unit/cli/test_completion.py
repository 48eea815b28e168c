"""Shell completion, as the shells ask for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = f"""#!/bin/sh
exec {sys.executable} -c 'from agent.cli.main import fernd; fernd(prog_name="fernd")' "$@"
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A `PATH` on which there is a `fernd`."""
    program = tmp_path / "fernd"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    return f"{tmp_path}:{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("fernd ta", {"task"}),
        ("fernd task l", {"list", "logs"}),
        ("fernd agent d", {"drain"}),
        ("fernd task list --st", {"--state"}),
        ("fernd task list --state run", {"running"}),
        ("fernd completion ", {"bash", "zsh", "fish"}),
    ],
)
def test_bash_completes(path: str, words: str, expected: set[str]) -> None:
    """Commands, options and their choices, in a real bash."""
    script = f"""
    source <(fernd completion bash)
    COMP_WORDS=({words} {"''" if words.endswith(" ") else ""})
    COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
    _fernd_completion fernd
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "-c", script], env=os.environ | {"PATH": path}, capture_output=True, text=True, check=True, timeout=30
    )
    assert expected <= set(done.stdout.split()), done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_sound(path: str, shell: str) -> None:
    """Each shell takes its script, where it is installed; all of them speak of `fernd`."""
    done = subprocess.run(
        ["fernd", "completion", shell],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert "_FERND_COMPLETE" in done.stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=done.stdout, text=True, check=True, timeout=30)
