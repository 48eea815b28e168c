"""The root command, which knows the others by name only.

``fernd --help`` and the start of every command stay fast because a command's module, and all that
it needs, is imported when the command runs and not before. Commands of other packages are found
through the entry point group ``fernd.commands``; that is how the agent's package can offer
``fernd dispatcher`` without knowing the dispatcher.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from agent.cli.terminal import keep_rich_out

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINTS = "fernd.commands"


class Entry(NamedTuple):
    """A command of this package: where it is, and what ``--help`` says of it."""

    module: str
    summary: str


COMMANDS = {
    "up": Entry("agent.cli.up", "Run dispatcher and agent together on this machine."),
    "agent": Entry("agent.cli.agent", "Make this machine a node, and look after it."),
    "login": Entry("agent.cli.login", "Remember a dispatcher and the token for it."),
    "node": Entry("agent.cli.node", "List, show, remove and restore nodes; make join tokens."),
    "function": Entry("agent.cli.function", "Create, list, show, change and delete functions."),
    "invoke": Entry("agent.cli.invoke", "Call a function and print its answer."),
    "task": Entry("agent.cli.task", "List and show tasks, their results and logs; cancel them."),
    "token": Entry("agent.cli.token", "Create, list and revoke tokens."),
    "account": Entry("agent.cli.account", "Create and list accounts."),
    "audit": Entry("agent.cli.audit", "Show who changed what."),
    "explain": Entry("agent.cli.explain", "Print the cause and the cure of an error code."),
    "completion": Entry("agent.cli.completion", "Print what makes a shell complete these commands."),
}
"""In the order of ``--help``. A module holds its command under the command's own name."""

FOREIGN_SUMMARIES = {"dispatcher": "Serve the task API and give tasks to nodes."}
"""What ``--help`` says of commands that come from entry points, which it does not load."""


DAEMONS = frozenset({"up", "agent", "dispatcher"})
"""Commands of programs that go on running."""


class LazyGroup(click.Group):
    """A group that imports a command when it is asked for it by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """List the names of all commands."""
        return [*COMMANDS, *(name for name in sorted(_foreign()) if name not in COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command."""
        if cmd_name in DAEMONS:
            keep_rich_out()
        if cmd_name in COMMANDS:
            command = getattr(import_module(COMMANDS[cmd_name].module), cmd_name)
        elif entry_point := _foreign().get(cmd_name):
            command = entry_point.load()
        else:
            return None
        if not isinstance(command, click.Command):
            raise TypeError(f"{cmd_name} is not a command")
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. What nobody expected is a sentence, too: a dispatcher, or a proxy, can answer anything."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, OSError):
            raise
        except Exception as error:
            if ctx.params.get("traceback") or ctx.invoked_subcommand in DAEMONS:
                raise
            from agent.cli.errors import Failed  # noqa: PLC0415 - only now

            raise Failed(
                f"an answer was not understood, or this is a fault of fernd ({type(error).__name__}: {error}); "
                f"fernd --traceback {ctx.invoked_subcommand} … says where"
            ) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by their summaries, without importing them."""
        rows = []
        for name in self.list_commands(ctx):
            summary = COMMANDS[name].summary if name in COMMANDS else FOREIGN_SUMMARIES.get(name, "")
            rows.append((name, summary))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _foreign() -> dict[str, EntryPoint]:
    # Importing and scanning package metadata takes longer than all the rest of `fernd task --help`.
    from importlib.metadata import entry_points  # noqa: PLC0415

    return {found.name: found for found in entry_points(group=ENTRY_POINTS)}


def _print_version(ctx: click.Context, _parameter: click.Parameter, wanted: Any) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from agent import __version__  # noqa: PLC0415 - only when asked for

    click.echo(f"fernd {__version__}")
    ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: fernd up, then in another terminal: fernd function create hello --image hello:latest; "
    "fernd invoke hello",
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Print the version and exit.",
)
@click.option("--traceback", is_flag=True, help="Where something unexpected goes wrong, show the place in the code.")
def fernd(traceback: bool) -> None:
    """Turn any machine into a worker node of a function cloud, and give tasks to it."""
