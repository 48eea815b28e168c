# ruff: noqa: INP001 - a script beside shell scripts, in no package
"""Sends one HTTP request to the Docker Engine, with nothing but Python's standard library.

The set-up scripts use it, because they run before anything is installed: there may be no `docker`
command, no curl and no virtual environment yet.

    engine.py GET /_ping
    engine.py POST '/images/create?fromSrc=-&repo=name&tag=latest' --body image.tar

Prints the answer's body. Exits with 1, and says why, where the engine cannot be reached, answers
with a status that is no success, or reports an error in the stream of its answer.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import socket
import sys
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

DEFAULT_HOST = "unix:///var/run/docker.sock"


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("engine", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Open the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def connect(host: str, timeout: float) -> http.client.HTTPConnection:
    """Prepare a connection to what `DOCKER_HOST` names.

    Raises:
        ValueError: The engine is neither at a unix socket nor at plain TCP.
    """
    address = urlsplit(host)
    if address.scheme == "unix":
        return UnixConnection(address.path, timeout)
    if address.scheme == "tcp" and address.hostname:
        return http.client.HTTPConnection(address.hostname, address.port or 2375, timeout=timeout)
    raise ValueError(f"DOCKER_HOST is {host!r}; expected unix:///path or tcp://host:port")


def send(connection: http.client.HTTPConnection, method: str, path: str, body: BinaryIO | None) -> bytes:
    """Send a request and give the body of its answer.

    Raises:
        OSError: The engine cannot be reached, or refuses; the text is its own.
    """
    headers = {"Content-Length": str(os.fstat(body.fileno()).st_size)} if body else {}
    connection.request(method, path, body, {"Content-Type": "application/x-tar", **headers})
    answer = connection.getresponse()
    content = answer.read()
    if not 200 <= answer.status < 300:
        raise OSError(_message(content, "message") or f"the engine answered {answer.status}")
    # Builds and pulls answer 200 at once; what goes wrong after that is a line of the stream.
    for line in content.splitlines():
        if problem := _message(line, "error"):
            raise OSError(problem)
    return content


def _message(text: bytes, key: str) -> str:
    with contextlib.suppress(ValueError):
        content = json.loads(text)
        if isinstance(content, dict):
            return str(content.get(key) or "")
    return ""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Send one HTTP request to the Docker Engine.")
    parser.add_argument("method", choices=["GET", "POST", "DELETE"])
    parser.add_argument("path")
    parser.add_argument("--body", type=Path, help="file to send")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds of silence to bear (default 5)")
    arguments = parser.parse_args()
    try:
        connection = connect(os.environ.get("DOCKER_HOST") or DEFAULT_HOST, arguments.timeout)
        with contextlib.closing(connection), contextlib.ExitStack() as files:
            body = files.enter_context(arguments.body.open("rb")) if arguments.body else None
            content = send(connection, arguments.method, arguments.path, body)
    except (OSError, ValueError, http.client.HTTPException) as error:
        sys.exit(str(error))
    sys.stdout.buffer.write(content)


if __name__ == "__main__":
    main()
