"""What commands print."""

from __future__ import annotations

import time

import pytest

from agent.cli import render
from agent.cli.errors import describe, refusal


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ("", "-"),
        ([], "-"),
        (False, "no"),
        (True, "yes"),
        (0, "0"),
        (1.50, "1.5"),
        (["a", "b"], "a, b"),
        ("a\x1b[31m\nb\x9b", "a [31m b "),
    ],
)
def test_plain(value: object, text: str) -> None:
    """Values are short words, and nothing in them can steer a terminal."""
    assert render.plain(value) == text


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Columns are as wide as their widest cell, and lines have no blanks at the end."""
    render.table(("id", "name"), [("1", "a"), ("22", "b\n")])
    assert capsys.readouterr().out == "ID  NAME\n1   a\n22  b\n"


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("日本語", 6, "日本語"),
        ("日本語", 5, "日本…"),
        ("日本語", 4, "日…"),
        ("e\u0301a", 2, "e\u0301a"),
    ],
)
def test_cut(text: str, width: int, expected: str) -> None:
    """A text is cut to columns, not characters."""
    assert render.cut(text, width) == expected
    assert render.columns_of(expected) <= width


def test_wide_characters_stay_in_their_columns() -> None:
    """What is right of a name in another script is still below its heading."""
    assert render.table_text(("name", "n"), [("日本", 1), ("x", 2)]) == "NAME  N\n日本  1\nx     2"


def test_bars_are_for_terminals() -> None:
    """Where nobody looks a percentage is a number, or what is said in its place."""
    assert render.bar(41.7) == "42 %"
    assert render.bar(41.7, "1 of 3") == "1 of 3"
    assert render.bar(None) == "-"


def test_fields(capsys: pytest.CaptureFixture[str]) -> None:
    """A map inside a map becomes dotted keys."""
    render.fields({"id": "x", "capabilities": {"cpuCount": 2, "privileged": False}, "env": {}})
    assert capsys.readouterr().out.splitlines() == [
        "id                       x",
        "capabilities.cpuCount    2",
        "capabilities.privileged  no",
        "env                      -",
    ]


def test_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epoch seconds become local time; what has not happened stays nothing."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert render.moment("1678087212") == "2023-03-06 07:20:12"
    assert render.moment(None) is None


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        ({"code": "INVALID", "detail": "too long", "field": "name"}, "INVALID: too long (name)"),
        ({"code": "INVALID", "detail": "name: too long", "field": "name"}, "INVALID: name: too long"),
        ({"code": "NOT_FOUND", "title": "There is no such thing"}, "NOT_FOUND: There is no such thing"),
    ],
)
def test_problems(problem: dict[str, str], text: str) -> None:
    """A problem is its code, its detail and the field, which is named once."""
    assert describe(problem) == text


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"code": 3}', b"\xff"])
def test_answers_that_are_no_problems(body: bytes) -> None:
    """What stands between us and the dispatcher, such as a proxy, may answer with anything."""
    error = refusal(502, body)
    assert (error.message, error.status, error.code) == ("the dispatcher answered 502", 502, "")
