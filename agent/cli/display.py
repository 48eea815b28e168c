"""What `fernd invoke` shows on stderr while a task is under way."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Protocol

import click

from agent.cli import terminal
from agent.cli.render import plain

if TYPE_CHECKING:
    from agent.cli.client import Event


class Display(Protocol):
    """Somewhere to show a task."""

    def task(self, task_id: str) -> None:
        """Name the task."""

    def show(self, event: Event) -> None:
        """Show what happened to it."""

    def say(self, sentence: str) -> None:
        """Say something about the command itself."""

    def close(self) -> None:
        """Leave behind what should stay."""


def of_stderr() -> Display:
    """Give bars on a terminal, and lines everywhere else."""
    console = terminal.console(sys.stderr)
    if console is None:
        return Lines()
    from agent.cli.live import Live  # noqa: PLC0415 - needs rich

    return Live(console)


class Lines:
    """One plain line for each thing that happens."""

    def __init__(self) -> None:
        self._pulled = -1

    def task(self, task_id: str) -> None:
        """Name the task."""
        self.say(f"task {task_id}")

    def show(self, event: Event) -> None:
        """Print an event, if it is worth a line."""
        if event.kind == "pull" and not self._is_news(event.content):
            return
        if line := line_of(event):
            self.say(line)

    def say(self, sentence: str) -> None:
        """Print a line."""
        click.echo(sentence, err=True)

    def close(self) -> None:
        """Do nothing: every line stays."""

    def _is_news(self, pull: dict[str, Any]) -> bool:
        """Say whether a pull got on by another tenth. Without bars, ten lines a second are too many."""
        done, total = pull.get("done"), pull.get("total")
        tenth = 10 * done // total if isinstance(done, int) and isinstance(total, int) and total > 0 else 0
        before, self._pulled = self._pulled, tenth
        return tenth != before


def line_of(event: Event) -> str | None:
    """Write an event for people; None for one that the answer itself tells."""
    content: dict[str, Any] = {key: plain(value) for key, value in event.content.items() if value not in ("", None)}
    match event.kind, content:
        case "state", {"state": state, "reason": reason}:
            return f"{state} ({reason})"
        case "state", {"state": state, "node": node}:
            return f"{state} to {node}" if state == "offered" else f"{state} by {node}"
        case "state", {"state": state}:
            return str(state)
        case "phase", {"phase": phase}:
            return str(phase)
        case "pull", {"done": done, "total": total}:
            return f"pulled {int(done) / 1e6:.1f} of {int(total) / 1e6:.1f} MB"
        case "progress", {"progress": percent, "message": message}:
            return f"{percent:>3} % {message}"
        case "progress", {"progress": percent}:
            return f"{percent:>3} %"
        case "log", {"line": line}:
            return f"| {line}"
        case _:
            return None
