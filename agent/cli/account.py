"""``fernd account``: the accounts of a dispatcher."""

from __future__ import annotations

import click

from agent.cli import render
from agent.cli.connection import connected
from agent.cli.options import as_json_option


@click.group(epilog="Example: fernd account create guests")
def account() -> None:
    """Create and list accounts. This takes a token of the first account with the scope admin."""


@account.command(epilog="Example: fernd token create first --account $(fernd account create guests) --scope admin")
@click.argument("name")
@as_json_option
def create(name: str, as_json: bool) -> None:
    """Create an account and print its id. It has no token yet."""
    made = connected(lambda client: client.call("POST", "account", content={"name": name}))
    if as_json:
        render.document(made)
    else:
        click.echo(made["id"])


@account.command("list", epilog="Example: fernd account list --json")
@as_json_option
def list_(as_json: bool) -> None:
    """List the accounts; with a token of another account than the first, that account."""
    accounts = connected(lambda client: client.whole_list("account"))
    if as_json:
        render.document(accounts)
        return
    rows = [(found["id"], found["name"], found["administers"], render.moment(found["created"])) for found in accounts]
    render.table(("id", "name", "administers", "created"), rows)
