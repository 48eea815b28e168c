"""``fernd function``: what can be called, how it runs and what it asks of a node."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from agent.cli import render, suggestions, watching
from agent.cli.connection import connected
from agent.cli.errors import Refused
from agent.cli.options import as_json_option, pairs
from agent.cli.watching import watch_option

if TYPE_CHECKING:
    from agent.cli.client import Client

C = TypeVar("C", bound=Callable[..., Any])

CAPABILITIES = frozenset({"timeout", "cpuCount", "memSize", "networkLatency", "privileged"})
"""Fields that the API takes apart from the others: what a function asks of a node."""

SETTINGS = (
    click.option("--image", help="The image that runs."),
    click.option("--description", help="At most 80 characters."),
    click.option("--lang", type=click.Choice(("GO", "PY", "JS", "CS", "RB", "RS", "ANY"), case_sensitive=False)),
    click.option("--mode", type=click.Choice(("http", "job")), help="http: serves $PORT. job: stdin to stdout."),
    click.option(
        "--env", multiple=True, metavar="KEY=VALUE", callback=pairs, help="All of its environment; may be repeated."
    ),
    click.option("--network", type=click.Choice(("none", "internet")), help="What the function can reach."),
    click.option("--reuse/--no-reuse", default=None, help="Whether a warm container takes the next task."),
    click.option(
        "--concurrency",
        type=click.IntRange(1, 1000),
        help="Requests that a warm container takes at a time; 1 unless the function can serve more.",
    ),
    click.option(
        "--warm", type=click.IntRange(0, 100), help="Containers that each node with the image keeps ready for a task."
    ),
    click.option(
        "--retries", type=click.IntRange(min=0), help="Further attempts after a node was lost; 0: never twice."
    ),
    click.option("--ready-path", "readyPath", metavar="PATH", help="Answers 2xx when the function is ready."),
    click.option("--grace", type=click.IntRange(0, 300), metavar="SECONDS", help="From the signal to end to the kill."),
    click.option(
        "--pull",
        type=click.Choice(("missing", "newer", "always")),
        help="Fetch the image if it is missing; or for each container: newer makes do with what is there, always not.",
    ),
    click.option(
        "--timeout", type=click.IntRange(1, 900), metavar="SECONDS", help="From the request to the end of the answer."
    ),
    click.option("--cpu", "cpuCount", type=click.FloatRange(0, 64), metavar="CPUS", help="0: no requirement."),
    click.option("--memory", "memSize", type=click.IntRange(min=0), metavar="MIB", help="0: no requirement."),
    click.option(
        "--latency",
        "networkLatency",
        type=click.FloatRange(min=0),
        metavar="MS",
        help="The node's round trip, at most.",
    ),
    click.option("--privileged/--no-privileged", default=None, help="Whether it asks for a privileged container."),
)
"""One option for each field of a function, under the field's name. None: not given."""


def settings(command: C) -> C:
    """Give a command all of `SETTINGS`."""
    for option in reversed(SETTINGS):
        command = option(command)
    return command


@click.group(epilog="Example: fernd function create hello --image hello:latest")
def function() -> None:
    """Create, list, show, change and delete functions."""


@function.command(epilog="Example: fernd function create thumbnail --image thumbnail:latest --timeout 30 --memory 512")
@click.argument("name")
@settings
@as_json_option
def create(name: str, as_json: bool, **given: Any) -> None:
    """Create a function and print its id."""
    fields, capabilities = _divide(given)

    async def work(client: Client) -> dict[str, Any]:
        content = {"name": name, "type": "DOCKER", **fields}
        made: dict[str, Any] = await client.call("POST", "function", content=content)
        try:
            if capabilities:
                await client.call("POST", "function", made["id"], "capabilities", content=capabilities)
        except Refused:
            # Two calls, one command: it either made what was asked for or nothing.
            await client.call("DELETE", "function", made["id"])
            raise
        return made

    made = connected(work)
    if as_json:
        render.document(made)
    else:
        click.echo(made["id"])


@function.command("list", epilog="Example: fernd function list --json")
@watch_option
@as_json_option
def list_(watch: bool, as_json: bool) -> None:
    """List the functions of the account."""

    def text(functions: list[dict[str, Any]]) -> str:
        headings = ("id", "name", "mode", "image", "description")
        return render.table_text(headings, [[found.get(heading) for heading in headings] for found in functions])

    watching.show(lambda: connected(lambda client: client.whole_list("function")), text, as_json=as_json, watch=watch)


@function.command(epilog="Example: fernd function show hello")
@click.argument("function_id", metavar="FUNCTION", shell_complete=suggestions.functions)
@as_json_option
def show(function_id: str, as_json: bool) -> None:
    """Show a function, by its id or name."""
    found = connected(lambda client: client.function(function_id))
    if as_json:
        render.document(found)
    else:
        render.fields(found | {"created": render.moment(found["created"])})


@function.command("set", epilog="Example: fernd function set hello --image hello:2 --timeout 60")
@click.argument("function_id", metavar="FUNCTION", shell_complete=suggestions.functions)
@settings
@as_json_option
def set_(function_id: str, as_json: bool, **given: Any) -> None:
    """Change what is given of a function, by its id or name. Tasks that exist keep what they have."""
    fields, capabilities = _divide(given)
    if not (fields or capabilities):
        raise click.UsageError("nothing to set: give at least one option")

    async def work(client: Client) -> dict[str, Any]:
        found = await client.function(function_id)
        if fields:
            await client.call("PATCH", "function", found["id"], content=fields)
        if capabilities:
            await client.call("POST", "function", found["id"], "capabilities", content=capabilities)
        return {"id": found["id"]}

    changed = connected(work)
    if as_json:
        render.document(changed)


@function.command(epilog="Example: fernd function delete hello")
@click.argument("function_id", metavar="FUNCTION", shell_complete=suggestions.functions)
def delete(function_id: str) -> None:
    """Delete a function, by its id or name. Its tasks go on."""

    async def work(client: Client) -> None:
        await client.call("DELETE", "function", (await client.function(function_id))["id"])

    connected(work)
    click.echo(f"Deleted {function_id}", err=True)


def _divide(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split what was given into the function's own fields and its capabilities."""
    fields = {name: value for name, value in given.items() if value is not None and value != []}
    if "env" in fields:
        fields["env"] = dict(fields["env"])
    capabilities = {name: fields.pop(name) for name in CAPABILITIES & fields.keys()}
    return fields, capabilities
