"""``fernd account``: the accounts of a dispatcher."""

from __future__ import annotations

from typing import Any

import click

from agent.cli import render
from agent.cli.connection import connected
from agent.cli.options import NONE, OrNone, as_json_option


@click.group(epilog="Example: fernd account create guests")
def account() -> None:
    """Create, list and show accounts, and limit what they may have.

    This takes a token of the first account with the scope admin.
    """


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


@account.command(epilog="Example: fernd account show 6405942c9956fae80d7e0e91")
@click.argument("account_id", metavar="ID")
@as_json_option
def show(account_id: str, as_json: bool) -> None:
    """Show an account, with its own limits; the settings of the dispatcher are the limit where it has none."""
    found = connected(lambda client: client.call("GET", "account", account_id))
    if as_json:
        render.document(found)
    else:
        render.fields(found | {"created": render.moment(found["created"])})


@account.command("set", epilog="Example: fernd account set 6405942c9956fae80d7e0e91 --running 20 --queue none")
@click.argument("account_id", metavar="ID")
@click.option("--queue", "queueLength", type=OrNone(click.INT), help="Tasks that may wait.")
@click.option("--running", type=OrNone(click.INT), help="Tasks that may be with nodes at a time.")
@click.option("--timeout", type=OrNone(click.INT), help="Seconds that its functions may ask for.")
@click.option("--cpu", "cpuCount", type=OrNone(click.FLOAT), help="CPUs that its functions may ask for.")
@click.option("--memory", "memSize", type=OrNone(click.INT), help="MiB that its functions may ask for.")
@click.option("--privileged", type=OrNone(click.BOOL), help="Whether its functions may ask for it.")
def set_(account_id: str, **given: Any) -> None:
    """Set limits of an account. The word none takes one away: then the settings of the dispatcher are the limit."""
    limits = {name: None if limit is NONE else limit for name, limit in given.items() if limit is not None}
    if not limits:
        raise click.UsageError("nothing to set: give at least one option")
    connected(lambda client: client.call("PATCH", "account", account_id, content={"limits": limits}))
