"""``fernd node``: what the account's nodes are and do, and who may be one."""

from __future__ import annotations

from typing import Any

import click

from agent.cli import render, suggestions, watching
from agent.cli.connection import connected
from agent.cli.options import as_json_option, seconds
from agent.cli.watching import watch_option


@click.group(epilog="Example: fernd node list")
def node() -> None:
    """List, show, remove and restore nodes; make join tokens."""


@node.command("list", epilog="Example: fernd node list --watch")
@watch_option
@as_json_option
def list_(watch: bool, as_json: bool) -> None:
    """List the nodes of the account."""
    watching.show(lambda: connected(lambda client: client.whole_list("node")), _table, as_json=as_json, watch=watch)


def _table(nodes: list[dict[str, Any]]) -> str:
    headings = ("id", "description", "available", "reason", "cpus", "mib", "running", "last contact", "version")
    return render.table_text(
        headings,
        [
            (
                found["hash"],
                found["description"],
                found["available"],
                found["reason"],
                found["capabilities"]["cpuCount"],
                found["capabilities"]["memSize"],
                found["running"],
                render.moment(found["lastContact"]),
                found["version"],
            )
            for found in nodes
        ],
    )


@node.command(epilog="Example: fernd node show 1a061cfd-df01-4b02-a067-5122c5941e15")
@click.argument("node_id", metavar="ID", shell_complete=suggestions.nodes)
@as_json_option
def show(node_id: str, as_json: bool) -> None:
    """Show all that is known of a node."""
    found = connected(lambda client: client.call("GET", "node", node_id))
    if as_json:
        render.document(found)
    else:
        render.fields(found | {key: render.moment(found[key]) for key in ("joined", "lastContact")})


@node.command(epilog="Example: fernd node remove 1a061cfd-df01-4b02-a067-5122c5941e15")
@click.argument("node_id", metavar="ID", shell_complete=suggestions.nodes)
def remove(node_id: str) -> None:
    """Revoke a node at once: its session closes, and its tasks go back to the queue."""
    connected(lambda client: client.call("DELETE", "node", node_id))
    click.echo(f"Removed {node_id}", err=True)


@node.command(epilog="Example: fernd node restore 1a061cfd-df01-4b02-a067-5122c5941e15")
@click.argument("node_id", metavar="ID", shell_complete=suggestions.nodes)
def restore(node_id: str) -> None:
    """Let a removed node work again."""
    connected(lambda client: client.call("PATCH", "node", node_id, content={"disabled": False}))
    click.echo(f"Restored {node_id}", err=True)


@node.command("join-token", epilog="Example: fernd agent join URL --token $(fernd node join-token)")
@click.option("--expires-in", callback=seconds, metavar="TIME", help="Such as 15m or 12h; a day by default.")
@as_json_option
def join_token(expires_in: int | None, as_json: bool) -> None:
    """Make a token with which machines can join the account as nodes."""
    content = {} if expires_in is None else {"expiresIn": expires_in}
    made = connected(lambda client: client.call("POST", "node", "join-token", content=content))
    if as_json:
        render.document(made)
    else:
        click.echo(made["token"])
