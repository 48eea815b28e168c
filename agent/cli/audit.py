"""``fernd audit``: who changed what, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from agent.cli import render
from agent.cli.connection import connected
from agent.cli.options import as_json_option

if TYPE_CHECKING:
    from agent.cli.client import Client


@click.command(epilog="Example: fernd audit --limit 20")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="Changes of a page.")
@click.option("--all", "everything", is_flag=True, help="Follow all pages.")
@click.option("--account", metavar="ID", help="Only changes of what belongs to this account.")
@as_json_option
def audit(limit: int, everything: bool, account: str | None, as_json: bool) -> None:
    """Show changes, newest first: of functions, nodes, tokens and accounts, and tasks that were cancelled.

    This takes a token with the scope admin.
    """

    async def work(client: Client) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = []
        query = {"limit": limit} | ({} if account is None else {"account": account})
        async for page in client.pages("audit", query):
            lines += page
            if not everything:
                break
        return lines

    lines = connected(work)
    if as_json:
        render.document(lines)
        return
    rows = [
        (
            render.moment(line["time"]),
            line["account"],
            line["by"]["name"],
            line["by"]["token"],
            line["action"],
            line["object"],
            line["detail"],
        )
        for line in lines
    ]
    render.table(("time", "account", "by", "token", "action", "object", "detail"), rows)
