"""``fernd login``: remember a dispatcher and the token for it."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

import click

from agent.cli import profile
from agent.cli.connection import connected

if TYPE_CHECKING:
    from agent.cli.client import Client


@click.command(epilog="Example: fernd login http://127.0.0.1:7070 --token-file ~/.local/state/fernd/api-token")
@click.argument("url")
@click.option(
    "--token-file",
    type=click.File("r"),
    help="Read the token from a file, or from stdin with -; without it, the token is asked for.",
)
def login(url: str, token_file: IO[str] | None) -> None:
    """Try a token against the dispatcher at URL and, if it is good, remember both for the other commands.

    FERND_URL and FERND_TOKEN go before what is remembered.
    """
    token = token_file.read() if token_file else click.prompt("Token", hide_input=True, err=True)
    endpoint = profile.Endpoint(profile.check_url(url), profile.check_token(token))

    async def attempt(client: Client) -> None:
        await client.call("GET", "function", "list", query={"limit": 1})

    connected(attempt, endpoint)
    path = profile.profile_path()
    profile.write(path, endpoint)
    click.echo(f"Logged in to {endpoint.url}; remembered in {path}", err=True)
