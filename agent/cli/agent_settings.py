"""Where the commands of ``fernd agent`` find the settings and the data directory."""

from __future__ import annotations

import os
from pathlib import Path

import click

from agent import settings
from agent.cli.errors import EXIT_USAGE, Failed
from agent.config import AgentConfig, default_data_dir
from agent.identity import has_joined
from agent.settings import SettingsError

config_option = click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"Settings; by default all of {settings.CONFIG_DIR}/*.toml.",
)
data_dir_option = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the node's identity and journal are kept; by default in $XDG_STATE_HOME/fernd.",
)


class NotSetUp(Failed):
    """The settings, or the lack of them, do not let the agent run."""

    exit_code = EXIT_USAGE


def load_settings(
    config: Path | None, data_dir: Path | None, flags: dict[str, object] | None = None
) -> tuple[AgentConfig, Path]:
    """Load the settings and find the data directory.

    Args:
        config: In place of all files of `settings.CONFIG_DIR`.
        flags: Settings that go before all others; None is passed over.

    Raises:
        NotSetUp: A setting is wrong.
    """
    try:
        loaded = read_settings(config, data_dir, flags)
    except SettingsError as error:
        raise NotSetUp("\n       ".join(error.problems)) from None
    return loaded, (loaded.node.data_dir or default_data_dir(os.environ, Path.home())).absolute()


def node_directory(directory: Path) -> Path:
    """Give a node's data directory, where that of a `fernd up` may have been named, which has it within."""
    inside = directory / "agent"
    return inside if has_joined(inside) and not has_joined(directory) else directory


def read_settings(config: Path | None, data_dir: Path | None, flags: dict[str, object] | None = None) -> AgentConfig:
    """Read the settings, as `load_settings` does.

    Raises:
        SettingsError: A setting is wrong.
    """
    files = [config] if config else settings.default_files()
    return settings.load(AgentConfig, files, os.environ, {"node.data_dir": data_dir} | (flags or {}))
