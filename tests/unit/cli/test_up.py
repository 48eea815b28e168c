"""``fernd up``: the data directory and the address."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import click
import pytest

from agent.cli import up
from agent.cli.errors import Failed


def test_one_at_a_time(tmp_path: Path) -> None:
    """A directory that is in use is told; it is free again when the last descriptor of the lock is closed."""
    first = up._lock(tmp_path / "d")
    child = os.dup(first.fileno())
    first.close()
    with pytest.raises(Failed, match="in use"):
        up._lock(tmp_path / "d")
    os.close(child)
    with up._lock(tmp_path / "d") as again:
        assert fcntl.fcntl(again, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    """A path below a file is an error with its name."""
    (tmp_path / "file").touch()
    with pytest.raises(Failed, match="cannot be used"):
        up._lock(tmp_path / "file" / "d")


@pytest.mark.parametrize(
    ("listen", "parsed"),
    [
        ("127.0.0.1:7070", ("127.0.0.1", 7070)),
        ("[::1]:0", ("::1", 0)),
        (":80", ("", 80)),
        ("host:65535", ("host", 65535)),
    ],
)
def test_listen(listen: str, parsed: tuple[str, int]) -> None:
    """The last colon divides host and port."""
    assert up._parse(listen) == parsed


@pytest.mark.parametrize("listen", ["", "host", "host:", "host:x", "host:65536", "host:-1"])
def test_listen_that_is_none(listen: str) -> None:
    """What is no address is a usage error."""
    with pytest.raises(click.UsageError):
        up._parse(listen)


def test_free_port() -> None:
    """A port of the system's choice; a host that is not ours is told."""
    assert up._free_port("127.0.0.1") > 0
    with pytest.raises(Failed, match="cannot listen"):
        up._free_port("192.0.2.1")
