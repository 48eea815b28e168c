"""``fernd completion``: what makes a shell complete commands, options, and names of functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agent.cli.errors import Failed

if TYPE_CHECKING:
    from click.shell_completion import ShellComplete

PROGRAM = "fernd"
VARIABLE = "_FERND_COMPLETE"
"""Set by the shell when it asks for completions; click reads it."""

SHELLS = ("bash", "zsh", "fish")


@click.command(epilog="Example: fernd completion bash > ~/.local/share/bash-completion/completions/fernd")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for a SHELL.

    For zsh it belongs into a file _fernd in a directory of $fpath, for fish into
    ~/.config/fish/completions/fernd.fish, for bash see the example.
    """
    from click.shell_completion import get_completion_class  # noqa: PLC0415 - only for this command

    kind: type[ShellComplete] | None = get_completion_class(shell)
    if kind is None:
        raise Failed(f"this version of click does not know {shell}")
    click.echo(kind(ctx.find_root().command, {}, PROGRAM, VARIABLE).source())
