"""``--watch``: the same look again and again, in place on a terminal, and line after line elsewhere."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click
import msgspec

from agent.cli import render, terminal
from agent.cli.errors import EXIT_INTERRUPTED, Unreachable

T = TypeVar("T")

SECONDS = 2.0
"""Between two looks."""

watch_option = click.option("--watch", is_flag=True, help="Look again every two seconds, until Ctrl-C.")


def show(look: Callable[[], T], text: Callable[[T], str], *, as_json: bool, watch: bool) -> None:
    """Print what there is to see: once, or until Ctrl-C.

    Where nobody looks on, and with ``--json``, watching prints what is new only: a document a line, or the text anew.
    """
    if watch:
        _watch(look, text, as_json=as_json)
    elif as_json:
        render.document(look())
    else:
        click.echo(text(look()))


def _watch(look: Callable[[], T], text: Callable[[T], str], *, as_json: bool) -> None:
    resized = threading.Event()
    before = signal.signal(signal.SIGWINCH, lambda *_: resized.set())
    try:
        if as_json or not terminal.is_terminal(sys.stdout):
            _print_news(look, _compact if as_json else lambda found: text(found) + "\n")
        else:
            with _alternate_screen():
                _redraw(look, text, resized)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    finally:
        signal.signal(signal.SIGWINCH, before)


def _print_news(look: Callable[[], T], text: Callable[[T], str]) -> None:
    said = None
    while True:
        try:
            now = text(look())
        except Unreachable as error:
            click.echo(f"error: {error.message}; trying again", err=True)
        else:
            if now != said:
                click.echo(now)
                sys.stdout.flush()
            said = now
        time.sleep(SECONDS)


def _redraw(look: Callable[[], T], text: Callable[[T], str], resized: threading.Event) -> None:
    found: T | None = None
    while True:
        trouble = ""
        try:
            found = look()
        except Unreachable as error:
            trouble = f"error: {error.message}; trying again"
        columns, rows = terminal.size()
        head = f"{time.strftime('%H:%M:%S')}  {trouble or 'every 2 s, Ctrl-C ends'}"
        lines = [click.style(render.cut(head, columns), dim=not trouble, fg="red" if trouble else None), ""]
        lines += text(found).split("\n") if found is not None else []
        if len(lines) > rows:
            lines[rows - 1 :] = [f"… and {len(lines) - rows + 1} more lines"]
        # Drawn over what is there, and each line's rest erased: nothing flickers.
        click.echo("\x1b[H" + "\n".join(f"{line}\x1b[K" for line in lines) + "\x1b[J", nl=False)
        resized.clear()
        resized.wait(SECONDS)


@contextmanager
def _alternate_screen() -> Iterator[None]:
    """Draw on the terminal's second screen, as `less` and `top` do, and leave the first as it was."""
    click.echo("\x1b[?1049h\x1b[?25l\x1b[?7l", nl=False)
    try:
        yield
    finally:
        click.echo("\x1b[?7h\x1b[?25h\x1b[?1049l", nl=False)


def _compact(found: Any) -> str:
    return msgspec.json.encode(found).decode()
