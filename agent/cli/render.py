"""What commands print: plain tables, key and value lines, times, JSON documents."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import click
import msgspec


def document(content: Any) -> None:
    """Print exactly one JSON document."""
    click.echo(msgspec.json.format(msgspec.json.encode(content), indent=2))


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows in columns as wide as their widest cell, under headings in upper case."""
    cells = [[heading.upper() for heading in headings], *([plain(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    for row in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def fields(content: Mapping[str, Any]) -> None:
    """Print one line for each key; the keys of a value that is a map itself become ``key.inner``."""
    lines = list(_flat("", content))
    width = max((len(key) for key, _ in lines), default=0)
    for key, value in lines:
        click.echo(f"{key.ljust(width)}  {plain(value)}".rstrip())


def _flat(prefix: str, content: Mapping[str, Any]) -> list[tuple[str, Any]]:
    lines: list[tuple[str, Any]] = []
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            lines += _flat(f"{prefix}{key}.", value)
        else:
            lines.append((prefix + key, value))
    return lines


def plain(value: Any) -> str:
    """Write a value for people, without control characters: some text comes from functions and other machines."""
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(plain(item) for item in value)
    return "".join(" " if unicodedata.category(character) == "Cc" else character for character in str(value))


def moment(epoch: str | None) -> str | None:
    """Write a time of the API, epoch seconds in a string, in the local time zone."""
    if epoch is None:
        return None
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(int(epoch)))
