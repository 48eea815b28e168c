"""``fernd task``: what became of the tasks of the account."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from agent.cli import render, suggestions, watching
from agent.cli.connection import connected
from agent.cli.errors import Refused, refusal
from agent.cli.options import as_json_option
from agent.cli.watching import watch_option

if TYPE_CHECKING:
    from agent.cli.client import Client

STATES = (
    "queued",
    "offered",
    "accepted",
    "pulling",
    "starting",
    "running",
    "uploading",
    "finished",
    "cancelled",
)

task_id_argument = click.argument("task_id", metavar="ID", shell_complete=suggestions.tasks)


@click.group(epilog="Example: fernd task list --state running")
def task() -> None:
    """List and show tasks, their results and logs; cancel them."""


@task.command("list", epilog="Example: fernd task list --function hello --state finished --limit 20")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="Tasks of a page.")
@click.option("--all", "everything", is_flag=True, help="Follow all pages.")
@click.option("--state", type=click.Choice(STATES), help="Only tasks in this state.")
@click.option(
    "--function",
    "function",
    metavar="FUNCTION",
    shell_complete=suggestions.functions,
    help="Only tasks of this function, by its id or name.",
)
@watch_option
@as_json_option
def list_(*, limit: int, everything: bool, state: str | None, function: str | None, watch: bool, as_json: bool) -> None:
    """List tasks, newest first."""

    async def work(client: Client) -> list[dict[str, Any]]:
        query: dict[str, Any] = {"limit": limit}
        if state is not None:
            query["state"] = state
        if function is not None:
            query["functionId"] = (await client.function(function))["id"]
        tasks: list[dict[str, Any]] = []
        async for page in client.pages("task", query):
            tasks += page
            if not everything:
                break
        return tasks

    watching.show(lambda: connected(work), _table, as_json=as_json, watch=watch)


def _table(tasks: list[dict[str, Any]]) -> str:
    rows = [
        (
            found["id"],
            render.moment(found["issued"]),
            render.bar(found["progress"], f"{found['progress']}"),
            found["status"],
        )
        for found in tasks
    ]
    return render.table_text(("id", "issued", "progress", "status"), rows)


@task.command(epilog="Example: fernd task show 6405942c9956fae80d7e0e91 --watch")
@task_id_argument
@watch_option
@as_json_option
def show(task_id: str, watch: bool, as_json: bool) -> None:
    """Show where a task stands."""

    def text(found: dict[str, Any]) -> str:
        times = {key: render.moment(found[key]) for key in ("issued", "assigned", "finished")}
        return render.fields_text(found | times)

    watching.show(
        lambda: connected(lambda client: client.call("GET", "task", task_id)), text, as_json=as_json, watch=watch
    )


@task.command(epilog="Example: fernd task result 6405942c9956fae80d7e0e91 > answer.json")
@task_id_argument
@as_json_option
def result(task_id: str, as_json: bool) -> None:
    """Print the answer of a task that finished, and nothing else, on stdout.

    Ends with 1 if the task failed, the function answered 400 or more, or the task has not finished.
    """
    from agent.cli.answer import fetch, finish  # noqa: PLC0415 - brings the HTTP library

    finish(connected(lambda client: fetch(client, task_id)), as_json)


@task.command(epilog="Example: fernd task logs --follow 6405942c9956fae80d7e0e91")
@task_id_argument
@click.option("-f", "--follow", is_flag=True, help="Print lines as the function writes them, until the task ends.")
@as_json_option
def logs(task_id: str, follow: bool, as_json: bool) -> None:
    """Print what the function wrote to stdout and stderr, when the task has ended.

    With --follow, a task that is under way is followed: of what it wrote before, the last lines are shown, and of a
    flood a part. The whole log, as far as it is kept, is there when the task has ended. With --follow and --json,
    each line is one document that names its stream.
    """

    async def work(client: Client) -> None:
        try:
            _print_log(task_id, await _log(client, task_id), as_json=as_json)
        except Refused as error:
            if not (follow and error.code == "NOT_FINISHED"):
                raise
            await _follow(client, task_id, as_json=as_json)

    connected(work)


async def _log(client: Client, task_id: str) -> bytes:
    async with client.request("GET", "task", task_id, "logs") as response:
        received = await response.read()
        if response.status != 200:
            raise refusal(response.status, received)
        return received


async def _follow(client: Client, task_id: str, *, as_json: bool) -> None:
    from agent.cli.follow import events_of  # noqa: PLC0415 - brings the HTTP library

    seen = False
    async for event in events_of(client, task_id):
        if event.kind == "log":
            seen = True
            if as_json:
                click.echo(json.dumps({"id": task_id, **event.content}))
            else:
                line = str(event.content.get("line", ""))
                sys.stdout.write((render.plain(line or " ") if sys.stdout.isatty() else line) + "\n")
            sys.stdout.flush()
    if not seen:  # it ended before the first line was told
        _print_log(task_id, await _log(client, task_id), as_json=as_json)


def _print_log(task_id: str, log: bytes, *, as_json: bool) -> None:
    if as_json:
        render.document({"id": task_id, "log": log.decode("utf-8", "replace")})
    else:
        sys.stdout.buffer.write(log)
        sys.stdout.flush()


@task.command(epilog="Example: fernd task cancel 6405942c9956fae80d7e0e91")
@task_id_argument
def cancel(task_id: str) -> None:
    """End a task: what runs is stopped, and its result says CANCELLED."""
    connected(lambda client: client.call("DELETE", "task", task_id))
    click.echo(f"Cancelled {task_id}", err=True)
