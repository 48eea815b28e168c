"""``fernd agent doctor``: whether this machine can be a node, and what to do where it cannot."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli import render
from agent.cli.agent_settings import config_option, data_dir_option, load_settings, node_directory
from agent.cli.errors import EXIT_FAILED
from agent.cli.options import as_json_option

if TYPE_CHECKING:
    from agent.doctor.findings import Finding


@click.command(epilog="Example: fernd agent doctor --json")
@config_option
@data_dir_option
@as_json_option
@click.pass_context
def doctor(ctx: click.Context, config: Path | None, data_dir: Path | None, as_json: bool) -> None:
    """Look at all that this machine needs to run tasks, say what was seen, and how to cure what is wrong.

    A container of our own goes the whole way of a task and leaves nothing behind. Works without a network and
    without an engine. The exit code is 1 where a check failed.
    """
    outer_config, outer_data_dir = ctx.obj
    loaded, directory = load_settings(config or outer_config, data_dir or outer_data_dir)
    from agent import logs  # noqa: PLC0415 - only when it runs
    from agent.doctor.rounds import examine  # noqa: PLC0415

    logs.configure("error", loaded.log.format)
    found = asyncio.run(examine(loaded, node_directory(directory)))
    if as_json:
        render.document(found)
    else:
        click.echo("\n".join(_lines(found.checks)))
    sys.exit(0 if found.ok else EXIT_FAILED)


def _lines(checks: list[Finding]) -> list[str]:
    """Write each check with what was seen, and the cure below it."""
    width = max(len(finding.check) for finding in checks)
    lines = []
    for finding in checks:
        lines.append(f"{finding.state:<7}  {finding.check:<{width}}  {render.plain(finding.seen)}")
        if finding.cure and finding.state != "ok":
            lines.append(f"{'':<7}  {'':<{width}}  cure: {finding.cure}")
    return lines
