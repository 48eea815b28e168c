"""What an agent is asked on its own machine, over its control socket: ``fernd agent status``, ``drain`` and so on."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Any

import click
import msgspec

from agent import identity
from agent.cli import render, status_view
from agent.cli.agent_settings import config_option, data_dir_option, load_settings, node_directory
from agent.cli.errors import Failed, Unreachable
from agent.cli.options import as_json_option, seconds
from agent.cli.watching import show, watch_option
from agent.status import Orphan

_SAMPLE = re.compile(r"^([a-z_]+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')

WAIT_SECONDS = 0.5
"""Between two looks whether a drain is done."""


@click.command(epilog="Example: fernd agent status --json")
@config_option
@data_dir_option
@watch_option
@as_json_option
@click.pass_context
def status(ctx: click.Context, config: Path | None, data_dir: Path | None, watch: bool, as_json: bool) -> None:
    """Show how the agent on this machine is: what it is, what runs, what is free. Works without a network."""
    directory = _data_dir(ctx, config, data_dir)
    show(lambda: _ask(directory, "status"), status_view.text, as_json=as_json, watch=watch)


@click.command(epilog="Example: fernd agent metrics | grep fernd_node_spool")
@config_option
@data_dir_option
@as_json_option
@click.pass_context
def metrics(ctx: click.Context, config: Path | None, data_dir: Path | None, as_json: bool) -> None:
    """Print the figures of the agent on this machine, as the text that Prometheus reads. Works without a network."""
    text = _ask(_data_dir(ctx, config, data_dir), "metrics")
    if as_json:
        render.document([_sample(*found.groups()) for found in _SAMPLE.finditer(text)])
    else:
        click.echo(text, nl=False)


@click.command(epilog="Example: fernd agent drain --wait && systemctl stop fernd-agent")
@click.option("--wait", is_flag=True, help="Return when nothing runs and every outcome is delivered.")
@config_option
@data_dir_option
@as_json_option
@click.pass_context
def drain(ctx: click.Context, wait: bool, config: Path | None, data_dir: Path | None, as_json: bool) -> None:
    """Let the agent on this machine finish what runs and take nothing new.

    It stays up and says so to the dispatcher; it takes work again when it is started again.
    """
    directory = _data_dir(ctx, config, data_dir)
    found = _ask(directory, "drain")
    while wait and found["tasks"]:
        time.sleep(WAIT_SECONDS)
        found = _ask(directory, "status")
    if as_json:
        render.document(found)
    elif left := len(found["tasks"]):
        click.echo(f"draining: {left} tasks are not finished and delivered yet")
    else:
        click.echo("drained: nothing runs, and every outcome is delivered")


@click.command(epilog="Example: fernd agent abort 6415af5c8e1a2b0001000000, with an id of fernd agent status")
@click.argument("task", metavar="TASK")
@config_option
@data_dir_option
@as_json_option
@click.pass_context
def abort(ctx: click.Context, task: str, config: Path | None, data_dir: Path | None, as_json: bool) -> None:
    """Stop one task on this machine, and give it back. Works without a network.

    Its function is told to end, and is killed after its grace. The dispatcher counts the attempt as lost and queues the
    task again, as far as the function's retries allow; it may come back to this machine. `fernd agent pause` and
    `fernd agent drain` keep all tasks away.
    """
    found = _ask(_data_dir(ctx, config, data_dir), "abort", task=task)
    if as_json:
        render.document(found)
    else:
        click.echo("\n".join(_aborted(attempt) for attempt in found))


def _aborted(attempt: dict[str, Any]) -> str:
    """Say what became of an attempt that was to be aborted."""
    said = f"task {attempt['task']}, attempt {attempt['attempt']}: "
    match attempt["state"]:
        case "given_back" | "declined":
            return said + "stopped and given back"
        case "giving_back":
            return said + "stopped; it is given back as soon as there is a dispatcher"
        case "abandoned":
            return said + "stopped; it was not this node's any more"
        case _:
            return said + "it came to its own end before it was stopped"


@click.command(epilog="Example: fernd agent pause --for 2h")
@click.option("--for", "duration", callback=seconds, metavar="TIME", help="Such as 30m or 2h; else until resumed.")
@config_option
@data_dir_option
@as_json_option
@click.pass_context
def pause(ctx: click.Context, duration: int | None, config: Path | None, data_dir: Path | None, as_json: bool) -> None:
    """Have this machine for yourself: freeze what runs, and take nothing new.

    It holds across a restart of the agent and of the machine. Tasks that were frozen go on with `fernd agent resume`,
    or when the time is over; those frozen for longer than the setting availability.pause_max are given back.
    """
    _told(_ask(_data_dir(ctx, config, data_dir), "pause", seconds=duration), as_json=as_json)


@click.command(epilog="Example: fernd agent resume")
@config_option
@data_dir_option
@as_json_option
@click.pass_context
def resume(ctx: click.Context, config: Path | None, data_dir: Path | None, as_json: bool) -> None:
    """End a pause. The rules of the section availability hold all the same."""
    _told(_ask(_data_dir(ctx, config, data_dir), "resume"), as_json=as_json)


@click.command(epilog="Example: fernd agent gc --dry-run")
@click.option("--dry-run", is_flag=True, help="Only list what would be removed.")
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Remove all that this node has on its engine. Its agent must not run: it removes that itself when it ends.",
)
@config_option
@data_dir_option
@as_json_option
@click.pass_context
def gc(  # noqa: PLR0917 - click passes by name
    ctx: click.Context, dry_run: bool, everything: bool, config: Path | None, data_dir: Path | None, as_json: bool
) -> None:
    """Remove what this node left behind: containers, networks, volumes and files that nothing needs.

    The agent does so by itself now and then. What is younger than a minute may be about to be used, and stays.
    """
    directory = _data_dir(ctx, config, data_dir)
    if everything:
        orphans = [msgspec.to_builtins(orphan) for orphan in _remove_all(directory, dry_run=dry_run)]
    else:
        orphans = _ask(directory, "gc", dry_run=dry_run)
    if as_json:
        render.document(orphans)
    elif orphans:
        render.table(("kind", "name", "reason"), [(found["kind"], found["name"], found["reason"]) for found in orphans])
    else:
        click.echo("nothing to remove")


def _remove_all(data_dir: Path, *, dry_run: bool) -> list[Orphan]:
    """Remove what a node has on its engine in the place of its agent, which does not run meanwhile."""
    from agent import logs  # noqa: PLC0415 - only when it runs
    from agent.containers.engine import EngineUnavailable  # noqa: PLC0415
    from agent.containers.removal import remove_all  # noqa: PLC0415

    logs.configure("error")
    try:
        node = identity.load_identity(data_dir)
        if node is None:
            raise Failed(f"this machine has not joined (looked in {data_dir})")
        with identity.only_one(data_dir):
            return asyncio.run(remove_all(node.id, dry_run=dry_run))
    except identity.IdentityError as error:
        raise Failed(str(error)) from None
    except EngineUnavailable as error:
        raise Unreachable(str(error)) from None


def _sample(name: str, labels: str | None, value: str) -> dict[str, Any]:
    return {"name": name, "labels": dict(_LABEL.findall(labels or "")), "value": float(value)}


def _told(found: dict[str, Any], *, as_json: bool) -> None:
    """Say whether the agent takes work by now."""
    if as_json:
        render.document(found)
    else:
        click.echo("takes work" if found["available"] else f"takes no work: {found['reason']}")


def _data_dir(ctx: click.Context, config: Path | None, data_dir: Path | None) -> Path:
    outer_config, outer_data_dir = ctx.obj
    return node_directory(load_settings(config or outer_config, data_dir or outer_data_dir)[1])


def _ask(data_dir: Path, command: Any, **arguments: Any) -> Any:
    from agent import control_socket  # noqa: PLC0415 - only when it runs

    try:
        return asyncio.run(control_socket.ask(data_dir, control_socket.Command(command, **arguments)))
    except control_socket.NotRunning as error:
        raise Unreachable(str(error)) from None
    except control_socket.CommandFailed as error:
        raise Failed(str(error)) from None
