"""``fernd invoke``: what it sends, and what it shows of events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from agent.cli.client import Event
from agent.cli.display import line_of
from agent.cli.invoke import _guess_type, _read
from agent.cli.options import pairs


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b'{"a": 1}', "application/json"),
        (b" [1]\n", "application/json"),
        (b"42", "application/json"),
        (b'"\xc3\xa4"', "application/json"),
        (b"{'a': 1}", "text/plain; charset=utf-8"),
        (b"NaN", "text/plain; charset=utf-8"),
        (b"", "text/plain; charset=utf-8"),
        (b"[" * 100_000, "text/plain; charset=utf-8"),
        (b'"\xff"', "application/octet-stream"),
        (b"\x89PNG", "application/octet-stream"),
    ],
)
def test_type_of_the_input(content: bytes, kind: str) -> None:
    """JSON is what the dispatcher takes for JSON; the rest is text where it is UTF-8, and bytes otherwise."""
    assert _guess_type(content) == kind


def test_body(tmp_path: Path) -> None:
    """The body is text, or a file's bytes, or there is none; a file that is not there is a usage error."""
    file = tmp_path / "photo"
    file.write_bytes(b"\x00\xff")
    assert _read(None) is None
    assert _read("ä") == b"\xc3\xa4"
    assert _read(f"@{file}") == b"\x00\xff"
    with pytest.raises(click.UsageError, match="No such file"):
        _read(f"@{file}.missing")


@pytest.mark.parametrize(
    ("kind", "content", "line"),
    [
        ("state", {"state": "queued"}, "queued"),
        ("state", {"state": "queued", "reason": "node lost"}, "queued (node lost)"),
        ("state", {"state": "offered", "node": "n", "attempt": 1}, "offered to n"),
        ("state", {"state": "accepted", "node": "n"}, "accepted by n"),
        ("phase", {"phase": "running"}, "running"),
        ("pull", {"done": 1_500_000, "total": 3_000_000}, "pulled 1.5 of 3.0 MB"),
        ("progress", {"progress": 42, "message": "some words"}, " 42 % some words"),
        ("progress", {"progress": 100, "message": ""}, "100 %"),
        ("log", {"stream": "stderr", "line": "\x1b[2Jhello"}, "|  [2Jhello"),
        ("end", {"state": "finished", "status": 200, "error": None}, None),
        ("later", {"anything": 1}, None),
        ("progress", {}, None),
    ],
)
def test_lines_of_events(kind: str, content: dict[str, Any], line: str | None) -> None:
    """Each event is one line; what a function wrote cannot steer the terminal; unknown events are passed over."""
    assert line_of(Event("1", kind, content)) == line


def test_pairs() -> None:
    """KEY=VALUE keeps further equals signs and empty values; anything else is a usage error."""
    context, parameter = click.Context(click.Command("x")), click.Option(["--query"])
    assert pairs(context, parameter, ("a=b=c", "a=")) == [("a", "b=c"), ("a", "")]
    for wrong in ("a", "=b", ""):
        with pytest.raises(click.BadParameter):
            pairs(context, parameter, (wrong,))
