"""``fernd invoke``: create a task, watch it, print its answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import click
import msgspec

from agent.cli import display, suggestions
from agent.cli.connection import connected
from agent.cli.errors import Failed, Refused, Unreachable, refusal
from agent.cli.options import as_json_option, pairs

if TYPE_CHECKING:
    from agent.cli.answer import Answer
    from agent.cli.client import Client

CANCEL_SECONDS = 5.0
"""Ctrl-C waits so long at most for the task to be cancelled."""


@click.command(epilog="Example: fernd invoke thumbnail -b @photo.jpg -q width=200 > small.png")
@click.argument("function", shell_complete=suggestions.functions)
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

    The answer alone goes to stdout; progress and log lines go to stderr while the task runs. On a
    terminal, JSON is set out to be read. Ends with 1 if the task failed or the function answered 400
    or more. Ctrl-C asks to cancel the task; a second one leaves at once.
    """
    if content_type is not None and not (content_type.isascii() and content_type.isprintable()):
        raise click.UsageError("--content-type: expected printable ASCII")
    content = _read(body)
    headers = {} if content is None else {"Content-Type": content_type or _guess_type(content)}

    shown = display.of_stderr()

    async def work(client: Client) -> Answer:
        function_id = (await client.function(function))["id"]
        creating = asyncio.create_task(
            _create(client, function_id, urlencode(query, errors="surrogateescape"), headers, content)
        )
        try:
            # Shielded: a task whose creation is under way when Ctrl-C comes must be cancelled too.
            task_id = await asyncio.shield(creating)
            return await _follow(client, task_id, shown, timeout_wait)
        except asyncio.CancelledError:
            await _cancel(client, creating, shown)
            raise
        finally:
            shown.close()

    from agent.cli.answer import finish  # noqa: PLC0415 - brings the HTTP library

    finish(connected(work), as_json)


async def _create(client: Client, function_id: str, query: str, headers: dict[str, str], content: bytes | None) -> str:
    async with client.request("POST", "task", function_id, query=query, headers=headers, body=content) as response:
        received = await response.read()
        if response.status != 201:
            raise refusal(response.status, received)
        return str(json.loads(received)["id"])


async def _follow(client: Client, task_id: str, shown: display.Display, seconds: float | None) -> Answer:
    from agent.cli.answer import wait_for  # noqa: PLC0415 - brings the HTTP library
    from agent.cli.follow import events_of  # noqa: PLC0415 - likewise

    shown.task(task_id)
    try:
        async with asyncio.timeout(seconds):
            # Events are for eyes. Whatever befalls them, the answer is still to be had.
            with contextlib.suppress(Unreachable, Refused):
                async for event in events_of(client, task_id):
                    shown.show(event)
            return await wait_for(client, task_id)
    except TimeoutError:
        raise Failed(f"no answer within {seconds:g} s; see `fernd task result {task_id}`") from None


async def _cancel(client: Client, creating: asyncio.Task[str], shown: display.Display) -> None:
    shown.say("cancelling the task; Ctrl-C once more leaves at once")
    try:
        async with asyncio.timeout(CANCEL_SECONDS):
            task_id = await creating
            await client.call("DELETE", "task", task_id)
    except (TimeoutError, Unreachable):
        shown.say("error: the task could not be cancelled")
    except Refused:
        return  # it was never created, or ended meanwhile
    else:
        shown.say(f"cancelled task {task_id}")


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
