"""A task's answer: read from the dispatcher, waited for, printed."""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

import click
import msgspec

from agent.cli import render, terminal
from agent.cli.client import SILENCE_SECONDS, Client
from agent.cli.errors import EXIT_FAILED, Refused, Unreachable, describe, parse_problem, refusal

WAIT_SECONDS = 60
"""The longest wait that the dispatcher grants to one request."""

OUTAGE_SECONDS = 60.0
"""A waiting caller goes on through an outage of the dispatcher, such as a restart, that is not longer."""

RETRY_SECONDS = 1.0


class Answer(NamedTuple):
    """What `/result` answered for a task that ended.

    Attributes:
        error: The code of the task's error; None where the function itself answered.
    """

    task: str
    status: int
    headers: Mapping[str, str]
    body: bytes
    error: str | None

    @property
    def failed(self) -> bool:
        """The function said so, or never answered."""
        return self.error is not None or self.status >= 400


async def fetch(client: Client, task_id: str, wait: int = 0) -> Answer:
    """Read the answer of a task, and wait for it at most so many seconds.

    Raises:
        Refused: There is no such task, or it has not finished by then.
    """
    headers = {"Prefer": f"wait={wait}"} if wait else {}
    silence = wait + SILENCE_SECONDS
    async with client.request("GET", "task", task_id, "result", headers=headers, silence=silence) as response:
        body = await response.read()
        if "X-Task-State" not in response.headers:
            raise refusal(response.status, body)
    # A function may answer with a problem of its own, so that the body cannot tell whose problem it is.
    error = (await client.call("GET", "task", task_id))["error"] if response.status >= 400 else None
    return Answer(task_id, response.status, dict(response.headers), body, error)


async def wait_for(client: Client, task_id: str) -> Answer:
    """Wait until a task ends, however long that is.

    Raises:
        Unreachable: The dispatcher was away for too long. The task goes on.
    """
    clock = asyncio.get_running_loop().time
    last_contact = clock()
    while True:
        try:
            return await fetch(client, task_id, WAIT_SECONDS)
        except Unreachable as error:
            if clock() - last_contact > OUTAGE_SECONDS:
                raise Unreachable(f"{error.message}; task {task_id} goes on") from None
        except Refused as error:
            if error.code not in {"NOT_FINISHED", "UNAVAILABLE"}:
                raise
            last_contact = clock()
            if error.code == "NOT_FINISHED":
                continue
        await asyncio.sleep(RETRY_SECONDS)


def finish(answer: Answer, as_json: bool) -> NoReturn:
    """Print an answer and end the process: with 1 if the task or the function failed.

    The bytes of the function's answer go to stdout alone, as they are; on a terminal JSON is set out to be read,
    and what is no text is not shown. What went wrong goes to stderr.
    """
    if as_json:
        render.document(_document(answer))
    elif answer.error is None:
        if sys.stdout.isatty():
            _show(answer)
        else:
            sys.stdout.buffer.write(answer.body)
            sys.stdout.flush()
    if answer.error is not None:
        problem = parse_problem(answer.body) or {"code": answer.error, "detail": f"task {answer.task} has no answer"}
        click.echo(f"error: {describe(problem)}", err=True)
    elif answer.failed:
        code = answer.headers.get("X-Exit-Code")
        how = f" (exit code {render.plain(code)})" if code else ""
        click.echo(f"error: the function answered {answer.status}{how}", err=True)
    sys.exit(EXIT_FAILED if answer.failed else 0)


def _show(answer: Answer) -> None:
    try:
        text = answer.body.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        kind = answer.headers.get("Content-Type", "application/octet-stream")
        click.echo(
            f"{len(answer.body)} bytes of {render.plain(kind)}, which a terminal cannot show: "
            f"fernd task result {answer.task} > FILE",
            err=True,
        )
        return
    try:
        text = msgspec.json.format(text, indent=2)
    except (msgspec.DecodeError, RecursionError):
        pass  # it is text, then
    else:
        if (console := terminal.console(sys.stdout)) is not None:
            from rich.highlighter import JSONHighlighter  # noqa: PLC0415 - where there is a console, there is rich

            console.print(JSONHighlighter()(text), soft_wrap=True)
            return
    if text:
        click.echo(text, nl=not text.endswith("\n"))


def _document(answer: Answer) -> dict[str, Any]:
    document: dict[str, Any] = {
        "id": answer.task,
        "status": answer.status,
        "error": answer.error,
        "headers": dict(answer.headers),
    }
    try:
        return document | {"body": answer.body.decode("utf-8")}
    except UnicodeDecodeError:
        return document | {"bodyBase64": base64.b64encode(answer.body).decode()}
