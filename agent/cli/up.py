"""``fernd up``: dispatcher and agent together on this machine."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
from pathlib import Path
from typing import IO

import click

from agent.cli.errors import Failed
from agent.cli.together import Together
from agent.config import default_data_dir

WILDCARDS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
"""Where to reach, from this machine, who listens on all addresses."""


@click.command(epilog="Example: fernd up --data-dir ~/fernd --listen 127.0.0.1:7070")
@click.option(
    "--data-dir",
    envvar="FERND_SERVER_DATA_DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where everything is kept; by default in $XDG_STATE_HOME/fernd.",
)
@click.option(
    "--listen",
    envvar="FERND_SERVER_LISTEN",
    default="127.0.0.1:7070",
    show_default=True,
    metavar="HOST:PORT",
    help="Where the task API is served; port 0 takes a free one.",
)
def up(data_dir: Path | None, listen: str) -> None:
    """Run dispatcher and agent together until Ctrl-C.

    The first start makes the data directory, with the token for the task API in its file api-token.
    Ctrl-C lets running tasks finish first; a second one gives them back to the queue.
    """
    directory = (data_dir or default_data_dir(os.environ, Path.home())).absolute()
    host, port = _parse(listen)
    with _lock(directory) as lock:
        port = port or _free_port(host)
        reach = WILDCARDS.get(host, host)
        address = f"http://{f'[{reach}]' if ':' in reach else reach}:{port}"
        listen = f"{f'[{host}]' if ':' in host else host}:{port}"
        asyncio.run(Together(directory, listen, address, lock.fileno()).run())


def _parse(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    if not (colon and port.isascii() and port.isdigit() and int(port) < 65_536):
        raise click.UsageError("--listen: expected HOST:PORT, such as 127.0.0.1:7070")
    return host.strip("[]"), int(port)


def _lock(directory: Path) -> IO[str]:
    """Take a data directory for this process and its children.

    The children hold the lock too: a directory is free when all that used it are gone.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (directory / "lock").open("w")
    except OSError as error:
        raise Failed(f"{error.filename} cannot be used: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise Failed(f"{directory} is in use by another fernd up, or by what one left to finish") from None
    return lock


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.bind((host, 0))
            port: int = probe.getsockname()[1]
            return port
    except OSError as error:
        raise Failed(f"cannot listen on {host}: {error.strerror}") from None
