"""The root command: what it lists, and what it does not import."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from agent import __version__
from agent.cli.main import COMMANDS, fernd

HEAVY = {"aiohttp", "asyncio", "docker", "msgspec", "psutil", "rich", "structlog", "importlib.metadata"}
"""Each of these takes longer to import than `fernd --help` takes."""


def imported_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    return set(done.stderr.split())


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        yield (*path, name)
        found = group.get_command(context, name)
        if isinstance(found, click.Group):
            yield from commands(found, (*path, name))


def test_the_root_imports_nothing_heavy() -> None:
    """The root command is click and the standard library."""
    assert not imported_by("import agent.cli.main") & HEAVY


@pytest.mark.parametrize("name", ["function", "task", "node", "invoke", "login", "token", "audit"])
def test_help_of_client_commands_needs_no_http(name: str) -> None:
    """The HTTP library is imported when a client command runs, not for its help or a usage error."""
    code = f"from agent.cli.main import fernd\nfernd([{name!r}, '--help'], standalone_mode=False)"
    assert not imported_by(code) & {"aiohttp", "docker", "psutil", "rich", "structlog"}


def test_listing_loads_no_command() -> None:
    """``fernd --help`` names all commands and imports none of them."""
    code = "from agent.cli.main import fernd\nfernd(['--help'], standalone_mode=False)"
    loaded = imported_by(code)
    assert not loaded & {entry.module for entry in COMMANDS.values()}
    assert not loaded & {"dispatcher", "aiohttp"}


@pytest.mark.parametrize("path", [("agent",), ("agent", "status"), ("agent", "drain"), ("up",), ("dispatcher",)])
def test_what_runs_for_weeks_carries_no_rich(path: tuple[str, ...], tmp_path: Path) -> None:
    """The daemons, and the commands that only speak to them, never load `rich`, although it is installed here."""
    config = tmp_path / "none.toml"
    config.write_text("")
    arguments = [*path, "--data-dir", str(tmp_path / "d")] + (["--config", str(config)] if "up" not in path else [])
    ends = ["--help"] if path in {("up",), ("dispatcher",)} else []
    command = [sys.executable, "-X", "importtime", "-m", "agent.cli", *arguments, *ends]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == (0 if ends else 2 if path == ("agent",) else 3), done.stderr[-500:]
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "click" in imported
    assert ("agent.daemon" in imported) is (path == ("agent",))
    # A try that failed is listed as `rich` alone.
    assert not {name for name in imported if name.startswith("rich.")}


@pytest.mark.parametrize("path", list(commands(fernd)), ids=" ".join)
def test_every_command_explains_itself(path: tuple[str, ...]) -> None:
    """Each command and subcommand has ``--help`` with a sentence and an example."""
    done = CliRunner().invoke(fernd, [*path, "--help"])
    assert done.exit_code == 0
    assert f"Usage: fernd {' '.join(path)}" in done.output
    assert "Example: fernd " in done.output


def test_unknown_command_is_a_usage_error() -> None:
    """A word that is no command ends with 2."""
    assert CliRunner().invoke(fernd, ["nothing"]).exit_code == 2


def test_version() -> None:
    """The version is the one that is built."""
    done = CliRunner().invoke(fernd, ["--version"])
    assert (done.exit_code, done.output) == (0, f"fernd {__version__}\n")
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    assert project.get("version", __version__) == __version__
