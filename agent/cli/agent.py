"""``fernd agent``: the node daemon, and how a machine becomes a node."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from urllib.parse import urlsplit

import click

from agent.cli import render
from agent.cli.agent_settings import NotSetUp, config_option, data_dir_option, load_settings, read_settings
from agent.cli.doctor import doctor
from agent.cli.errors import Failed, Unreachable
from agent.cli.local import abort, drain, gc, metrics, pause, resume, status
from agent.cli.options import as_json_option
from agent.identity import IdentityError


@click.group(invoke_without_command=True, epilog="Example: fernd agent --config /etc/fernd/agent.toml")
@config_option
@data_dir_option
@click.pass_context
def agent(ctx: click.Context, config: Path | None, data_dir: Path | None) -> None:
    """Run the node daemon until SIGTERM or Ctrl-C.

    The first signal lets running tasks finish, a second one gives them back.
    """
    ctx.obj = (config, data_dir)
    if ctx.invoked_subcommand is not None:
        return
    loaded, directory = load_settings(config, data_dir)
    from agent import daemon  # noqa: PLC0415 - the daemon and all that it needs only when it runs

    try:
        code = daemon.run(loaded, directory, lambda: read_settings(config, data_dir))
    except daemon.DispatcherAway as error:
        raise Unreachable(str(error)) from None
    except daemon.NotJoined as error:
        raise NotSetUp(str(error)) from None
    except IdentityError as error:
        raise Failed(str(error)) from None
    sys.exit(code)


for command in (status, metrics, drain, abort, pause, resume, gc, doctor):
    agent.add_command(command)


@agent.command(
    epilog="Example: fernd agent join https://fernd.example.org --token TOKEN, with a token of fernd node join-token"
)
@click.argument("urls", metavar="URL[,URL...]")
@click.option("--token", help="Join token of the account; by default the setting node.join_token.")
@click.option(
    "--description",
    help="What people see beside the node's id; by default the setting node.description, or else the machine's name.",
)
@config_option
@data_dir_option
@as_json_option
@click.pass_context
def join(  # noqa: PLR0917 - click passes by name
    ctx: click.Context,
    urls: str,
    token: str | None,
    description: str | None,
    config: Path | None,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Make this machine a node of an account.

    Several URLs are dispatchers of the same account; the node tries them in turn. A machine that joins again keeps its
    id and gets a new credential.
    """
    outer_config, outer_data_dir = ctx.obj
    if token is not None and not (token.isascii() and token.isprintable() and token.strip()):
        raise click.UsageError("--token: expected a join token, as `fernd node join-token` prints it")
    loaded, directory = load_settings(
        config or outer_config, data_dir or outer_data_dir, {"node.description": description}
    )
    join_token = token.strip() if token is not None else loaded.node.join_token
    from agent import join as joining  # noqa: PLC0415 - brings aiohttp

    addresses = _addresses(urls)
    if not join_token:
        raise click.UsageError("--token is missing: `fernd node join-token` makes one")
    try:
        node = asyncio.run(joining.join(addresses, join_token, directory, loaded.node.description))
    except joining.Unreachable as error:
        raise Unreachable(str(error)) from None
    except joining.Refused as error:
        raise Failed(f"the dispatcher does not let this machine join: {error}") from None
    except IdentityError as error:
        raise Failed(str(error)) from None
    if as_json:
        render.document({"id": node.id, "dispatchers": node.dispatchers, "dataDir": str(directory)})
    else:
        click.echo(f"joined as {node.id}; `fernd agent --data-dir {directory}` runs it")


def _addresses(urls: str) -> list[str]:
    addresses = [url.strip() for url in urls.split(",") if url.strip()]
    for address in addresses:
        try:
            parts = urlsplit(address)
            usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            usable = False
        if not usable:
            raise click.UsageError(f"{address}: expected the URL of a dispatcher, such as https://fernd.example.org")
    if not addresses:
        raise click.UsageError("expected the URL of a dispatcher, such as https://fernd.example.org")
    return addresses
