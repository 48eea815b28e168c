"""``fernd explain``: what an error code means, and what helps."""

from __future__ import annotations

import difflib
import textwrap

import click

from agent.cli import render
from agent.cli.options import as_json_option
from agent.codes import CODES

WIDTH = 100


@click.command(epilog="Example: fernd explain OOM_KILLED")
@click.argument("code", required=False)
@as_json_option
def explain(code: str | None, as_json: bool) -> None:
    """Print the cause and the cure of an error code; without one, list all codes."""
    if code is None:
        _list(as_json)
        return
    name = code.upper().replace("-", "_")
    if name not in CODES:
        near = difflib.get_close_matches(name, CODES, n=1)
        hint = f"; did you mean {near[0]}?" if near else "; fernd explain lists all codes"
        raise click.BadParameter(f"there is no code {code}{hint}", param_hint="CODE")
    found = CODES[name]
    if as_json:
        render.document({"code": name, **found._asdict()})
        return
    click.echo(f"{name} ({found.status}): {found.title}")
    for heading, words in (("Cause", found.cause), ("Cure", found.cure)):
        click.echo()
        click.echo(textwrap.fill(f"{heading}: {words}", WIDTH, break_long_words=False, break_on_hyphens=False))


def _list(as_json: bool) -> None:
    if as_json:
        render.document([{"code": name, **found._asdict()} for name, found in CODES.items()])
    else:
        render.table(("code", "status", "title"), [(name, found.status, found.title) for name, found in CODES.items()])
