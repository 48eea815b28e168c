"""``fernd task``: what became of the tasks of the account."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from agent.cli import render
from agent.cli.connection import connected
from agent.cli.errors import refusal
from agent.cli.options import as_json_option

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

task_id_argument = click.argument("task_id", metavar="ID")


@click.group(epilog="Example: fernd task list --state running")
def task() -> None:
    """List and show tasks, their results and logs; cancel them."""


@task.command("list", epilog="Example: fernd task list --function hello --state finished --limit 20")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="Tasks of a page.")
@click.option("--all", "everything", is_flag=True, help="Follow all pages.")
@click.option("--state", type=click.Choice(STATES), help="Only tasks in this state.")
@click.option("--function", "function", metavar="FUNCTION", help="Only tasks of this function, by its id or name.")
@as_json_option
def list_(limit: int, everything: bool, state: str | None, function: str | None, as_json: bool) -> None:
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

    tasks = connected(work)
    if as_json:
        render.document(tasks)
        return
    rows = [[found["id"], render.moment(found["issued"]), found["progress"], found["status"]] for found in tasks]
    render.table(("id", "issued", "progress", "status"), rows)


@task.command(epilog="Example: fernd task show 6405942c9956fae80d7e0e91")
@task_id_argument
@as_json_option
def show(task_id: str, as_json: bool) -> None:
    """Show where a task stands."""
    found = connected(lambda client: client.call("GET", "task", task_id))
    if as_json:
        render.document(found)
        return
    times = {key: render.moment(found[key]) for key in ("issued", "assigned", "finished")}
    render.fields(found | times)


@task.command(epilog="Example: fernd task result 6405942c9956fae80d7e0e91 > answer.json")
@task_id_argument
@as_json_option
def result(task_id: str, as_json: bool) -> None:
    """Print the answer of a task that finished, and nothing else, on stdout.

    Ends with 1 if the task failed, the function answered 400 or more, or the task has not finished.
    """
    from agent.cli.answer import fetch, finish  # noqa: PLC0415 - brings the HTTP library

    finish(connected(lambda client: fetch(client, task_id)), as_json)


@task.command(epilog="Example: fernd task logs 6405942c9956fae80d7e0e91")
@task_id_argument
@as_json_option
def logs(task_id: str, as_json: bool) -> None:
    """Print what the function wrote to stdout and stderr, when the task has ended."""

    async def work(client: Client) -> bytes:
        async with client.request("GET", "task", task_id, "logs") as response:
            received = await response.read()
            if response.status != 200:
                raise refusal(response.status, received)
            return received

    log = connected(work)
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
