"""``fernd token``: who may speak to the dispatcher, and what about."""

from __future__ import annotations

from typing import Any

import click

from agent.cli import render
from agent.cli.connection import connected
from agent.cli.options import as_json_option, seconds

SCOPES = ("tasks", "functions", "nodes", "admin")


@click.group(epilog="Example: fernd token create ci --scope tasks --expires-in 30d")
def token() -> None:
    """Create, list and revoke tokens. This takes a token with the scope admin."""


@token.command(epilog="Example: fernd token create ci --scope tasks --scope functions --expires-in 30d")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(SCOPES),
    multiple=True,
    required=True,
    help="What it may be used for; may be repeated.",
)
@click.option("--expires-in", callback=seconds, metavar="TIME", help="Such as 90 (seconds), 12h or 30d; else never.")
@click.option("--account", metavar="ID", help="For another account than that of your own token.")
@as_json_option
def create(name: str, scopes: tuple[str, ...], expires_in: int | None, account: str | None, as_json: bool) -> None:
    """Create a token and print it. It is shown this once."""
    content: dict[str, Any] = {"name": name, "scopes": list(dict.fromkeys(scopes))}
    if expires_in is not None:
        content["expiresIn"] = expires_in
    if account is not None:
        content["account"] = account
    made = connected(lambda client: client.call("POST", "token", content=content))
    if as_json:
        render.document(made)
    else:
        click.echo(made["token"])


@token.command("list", epilog="Example: fernd token list --json")
@as_json_option
def list_(as_json: bool) -> None:
    """List the tokens of your account; of all accounts, where yours administers."""
    tokens = connected(lambda client: client.whole_list("token"))
    if as_json:
        render.document(tokens)
        return
    rows = [
        (
            found["id"],
            found["name"],
            found["account"],
            found["scopes"],
            render.moment(found["created"]),
            render.moment(found["expires"]),
        )
        for found in tokens
    ]
    render.table(("id", "name", "account", "scopes", "created", "expires"), rows)


@token.command(epilog="Example: fernd token revoke 6405942c9956fae80d7e0e91")
@click.argument("token_id", metavar="ID")
def revoke(token_id: str) -> None:
    """Revoke a token at once, and log out the browsers that logged in with it."""
    connected(lambda client: client.call("DELETE", "token", token_id))
    click.echo(f"Revoked {token_id}", err=True)
