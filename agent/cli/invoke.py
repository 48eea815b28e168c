"""``fernd invoke``: create a task, watch it, print its answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import click
import msgspec

from agent.cli.connection import connected
from agent.cli.errors import Failed, Refused, Unreachable, refusal
from agent.cli.options import as_json_option, pairs
from agent.cli.render import plain

if TYPE_CHECKING:
    from agent.cli.answer import Answer
    from agent.cli.client import Client, Event

CANCEL_SECONDS = 5.0
"""Ctrl-C waits so long at most for the task to be cancelled."""

SILENT_EVENTS_SECONDS = 60.0
"""An event stream that says nothing for so long is given up; the wait for the result goes on without it."""


@click.command(epilog="Example: fernd invoke thumbnail -b @photo.jpg -q width=200 > small.png")
@click.argument("function")
@click.option("-b", "--body", metavar="BODY|@FILE|-", help="The input: text, a file, or stdin.")
@click.option(
    "-q", "--query", multiple=True, metavar="KEY=VALUE", callback=pairs, help="Of the query string; may be repeated."
)
@click.option("--content-type", metavar="TYPE", help="Of the input; application/json where it is JSON.")
@click.option(
    "--timeout-wait",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Wait so long at most; the task itself goes on.",
)
@as_json_option
def invoke(
    *,
    function: str,
    body: str | None,
    query: list[tuple[str, str]],
    content_type: str | None,
    timeout_wait: float | None,
    as_json: bool,
) -> None:
    """Call FUNCTION, by its id or name, and print its answer.

    The answer alone goes to stdout; progress and log lines go to stderr while the task runs. Ends
    with 1 if the task failed or the function answered 400 or more. Ctrl-C cancels the task.
    """
    if content_type is not None and not (content_type.isascii() and content_type.isprintable()):
        raise click.UsageError("--content-type: expected printable ASCII")
    content = _read(body)
    headers = {} if content is None else {"Content-Type": content_type or _guess_type(content)}

    async def work(client: Client) -> Answer:
        function_id = (await client.function(function))["id"]
        creating = asyncio.create_task(
            _create(client, function_id, urlencode(query, errors="surrogateescape"), headers, content)
        )
        try:
            # Shielded: a task whose creation is under way when Ctrl-C comes must be cancelled too.
            task_id = await asyncio.shield(creating)
            return await _follow(client, task_id, timeout_wait)
        except asyncio.CancelledError:
            await _cancel(client, creating)
            raise

    from agent.cli.answer import finish  # noqa: PLC0415 - brings the HTTP library

    finish(connected(work), as_json)


async def _create(client: Client, function_id: str, query: str, headers: dict[str, str], content: bytes | None) -> str:
    async with client.request("POST", "task", function_id, query=query, headers=headers, body=content) as response:
        received = await response.read()
        if response.status != 201:
            raise refusal(response.status, received)
        return str(json.loads(received)["id"])


async def _follow(client: Client, task_id: str, seconds: float | None) -> Answer:
    from agent.cli.answer import wait_for  # noqa: PLC0415 - brings the HTTP library

    click.echo(f"task {task_id}", err=True)
    try:
        async with asyncio.timeout(seconds):
            # Events are for eyes. Whatever befalls them, the answer is still to be had.
            with contextlib.suppress(Unreachable, Refused):
                async for event in client.events(task_id, SILENT_EVENTS_SECONDS):
                    if line := _line(event):
                        click.echo(line, err=True)
            return await wait_for(client, task_id)
    except TimeoutError:
        raise Failed(f"no answer within {seconds:g} s; see `fernd task result {task_id}`") from None


async def _cancel(client: Client, creating: asyncio.Task[str]) -> None:
    try:
        async with asyncio.timeout(CANCEL_SECONDS):
            task_id = await creating
            await client.call("DELETE", "task", task_id)
    except (TimeoutError, Unreachable):
        click.echo("error: the task could not be cancelled", err=True)
    except Refused:
        return  # it was never created, or ended meanwhile
    else:
        click.echo(f"cancelled task {task_id}", err=True)


def _line(event: Event) -> str | None:
    """Write an event for people; None for one that the answer itself tells."""
    content: dict[str, Any] = {key: plain(value) for key, value in event.content.items() if value not in ("", None)}
    match event.kind, content:
        case "state", {"state": state, "reason": reason}:
            return f"{state} ({reason})"
        case "state", {"state": state, "node": node}:
            return f"{state} by {node}" if state == "accepted" else f"{state} to {node}"
        case "state", {"state": state}:
            return str(state)
        case "phase", {"phase": phase}:
            return str(phase)
        case "pull", {"done": done, "total": total}:
            return f"pulled {int(done) / 1e6:.1f} of {int(total) / 1e6:.1f} MB"
        case "progress", {"progress": percent, "message": message}:
            return f"{percent:>3} % {message}"
        case "progress", {"progress": percent}:
            return f"{percent:>3} %"
        case "log", {"line": line}:
            return f"| {line}"
        case _:
            return None


def _read(body: str | None) -> bytes | None:
    if body is None:
        return None
    if body == "-":
        return sys.stdin.buffer.read()
    if not body.startswith("@"):
        return body.encode("utf-8", "surrogateescape")
    try:
        return Path(body[1:]).read_bytes()
    except OSError as error:
        raise click.UsageError(f"{body[1:]} cannot be read: {error.strerror}") from None


def _guess_type(content: bytes) -> str:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return "application/octet-stream"
    try:
        msgspec.json.decode(content, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return "text/plain; charset=utf-8"
    return "application/json"
