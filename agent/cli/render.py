"""What commands print: tables, key and value lines, bars, times, JSON documents.

On a terminal a table fits the window, words that matter have colours, and percentages are bars. Everywhere else the
same content is plain, and stays the same for scripts.
"""

from __future__ import annotations

import sys
import time
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import click
import msgspec

from agent.cli import terminal

NARROWEST = 12
"""Columns of a table are not made narrower than this, whatever the window."""

BAR_WIDTH = 12

COLOURS = {
    "yes": "green",
    "ok": "green",
    "ready": "green",
    "finished": "green",
    "running": "cyan",
    "no": "red",
    "stalled": "red",
    "cancelled": "yellow",
    "draining": "yellow",
}
"""Of cells that say just this word."""


def document(content: Any) -> None:
    """Print exactly one JSON document."""
    click.echo(msgspec.json.format(msgspec.json.encode(content), indent=2))


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table."""
    click.echo(table_text(headings, rows))


def table_text(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Write rows in columns as wide as their widest cell, under headings in upper case.

    Where the window is narrower than that, the widest columns are cut.
    """
    cells = [[heading.upper() for heading in headings], *([plain(cell) for cell in row] for row in rows)]
    widths = [max(columns_of(row[column]) for row in cells) for column in range(len(headings))]
    if sys.stdout.isatty():
        _narrow(widths, terminal.size()[0])
    coloured = terminal.is_coloured(sys.stdout)
    lines = []
    for number, row in enumerate(cells):
        padded = [_fitted(cell, width) for cell, width in zip(row, widths, strict=True)]
        padded[-1] = padded[-1].rstrip()
        if coloured:
            padded = [_styled(cell, heading=number == 0) for cell in padded]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def fields(content: Mapping[str, Any]) -> None:
    """Print key and value lines."""
    click.echo(fields_text(content))


def fields_text(content: Mapping[str, Any]) -> str:
    """Write one line for each key; the keys of a value that is a map itself become ``key.inner``."""
    lines = list(_flat("", content))
    width = max((len(key) for key, _ in lines), default=0)
    return "\n".join(f"{key.ljust(width)}  {plain(value)}".rstrip() for key, value in lines)


def bar(percent: float | None, plainly: str | None = None) -> str:
    """Write a percentage: with a bar where somebody looks, else as a number.

    Args:
        plainly: In place of the number.
    """
    if percent is None:
        return plainly or "-"
    number = f"{percent:.0f} %"
    if not sys.stdout.isatty():
        return plainly if plainly is not None else number
    full, empty = ("█", "░") if _has_all_characters() else ("#", ".")
    filled = round(BAR_WIDTH * min(100.0, max(0.0, percent)) / 100)
    return f"{full * filled}{empty * (BAR_WIDTH - filled)} {plainly if plainly is not None else number}"


def columns_of(text: str) -> int:
    """Count the columns that a text takes on a terminal: characters of East Asia take two, accents none."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def cut(text: str, width: int) -> str:
    """Cut a text to a number of columns, with an ellipsis where something is missing."""
    if columns_of(text) <= width:
        return text
    while columns_of(text) > width - 1:
        text = text[:-1]
    return text + ("…" if _has_all_characters() else "~")


def _has_all_characters() -> bool:
    return sys.stdout.encoding.lower().startswith("utf")


def _fitted(cell: str, width: int) -> str:
    cell = cut(cell, width)
    return cell + " " * (width - columns_of(cell))


def _styled(cell: str, *, heading: bool) -> str:
    if heading:
        return click.style(cell, bold=True)
    colour = COLOURS.get(cell.strip())
    return click.style(cell, fg=colour) if colour else cell


def _narrow(widths: list[int], columns: int) -> None:
    """Take from the widest columns what does not fit."""
    while sum(widths) + 2 * (len(widths) - 1) > columns:
        widest = max(range(len(widths)), key=widths.__getitem__)
        if widths[widest] <= NARROWEST:
            return
        widths[widest] -= 1


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
