"""What the terminal can show, if there is one.

Bars and a line that changes in place need `rich`, which the extra ``cli`` brings. Without it, or where the output
goes to a file or a pipe, the commands print plain lines, and the same ones each time.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def is_terminal(stream: IO[Any]) -> bool:
    """Say whether somebody looks at a stream, on a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def is_coloured(stream: IO[Any]) -> bool:
    """Say whether a stream may be given colours; ``NO_COLOR`` forbids them."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def size() -> tuple[int, int]:
    """Give the columns and lines of the window."""
    found = shutil.get_terminal_size()
    return found.columns, found.lines


def console(stream: IO[str]) -> Console | None:
    """Give a console on a stream that is a terminal; None where there is none, or no `rich`."""
    if not is_terminal(stream):
        return None
    try:
        from rich.console import Console  # noqa: PLC0415 - only where somebody looks, and where it is installed
    except ImportError:
        return None
    return Console(file=stream, highlight=False, markup=False, emoji=False)


def keep_rich_out() -> None:
    """Let no import find `rich`: structlog would bring it into programs that run for weeks and draw nothing."""
    # None is how Python says that a module is not to be found.
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
