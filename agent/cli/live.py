"""A task on a terminal: its phase and bars in place, and what the function writes above them.

The only module that needs `rich`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich import live
from rich.console import Console, ConsoleOptions, RenderResult
from rich.filesize import decimal
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from agent.cli.render import plain

if TYPE_CHECKING:
    from agent.cli.client import Event

REFRESHES = 10
"""A second."""

BAR_WIDTH = 30

WORDS = {
    "queued": "waits for a node",
    "offered": "is offered to a node",
    "accepted": "is accepted",
    "pulling": "pulls the image",
    "starting": "starts a container",
    "running": "runs",
    "uploading": "hands in its answer",
}
"""What a state or a phase is called here."""


class Live:
    """The display on a terminal.

    Args:
        console: Of stderr.
    """

    def __init__(self, console: Console, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._monotonic = monotonic
        self._begun = monotonic()
        self._task = ""
        self._stage = "queued"
        self._node = ""
        self._reason = ""
        self._pull: tuple[int, int] | None = None
        self._percent: int | None = None
        self._message = ""
        self._spinner = Spinner("dots" if console.encoding.startswith("utf") else "line")
        self._live = live.Live(
            get_renderable=lambda: self,
            console=console,
            refresh_per_second=REFRESHES,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def task(self, task_id: str) -> None:
        """Name the task, and begin to draw."""
        self._task = task_id
        self._live.start()

    def show(self, event: Event) -> None:
        """Take what happened; it is drawn with the next refresh."""
        content = event.content
        match event.kind:
            case "state":
                self._enter(str(content.get("state")))
                self._node = plain(content["node"]) if content.get("node") else ""
                self._reason = plain(content["reason"]) if content.get("reason") else ""
            case "phase":
                self._enter(str(content.get("phase")))
            case "pull":
                self._pull = int(content.get("done") or 0), int(content.get("total") or 0)
            case "progress":
                self._percent = int(content.get("progress") or 0)
                self._message = plain(content["message"]) if content.get("message") else ""
            case "log":
                self._console.print(Text(plain(content.get("line") or " ")), style="dim", soft_wrap=True)

    def say(self, sentence: str) -> None:
        """Print a line that stays, above the bars."""
        self._console.print(Text(sentence), soft_wrap=True)

    def close(self) -> None:
        """Take the bars away, and leave one line that names the task."""
        if self._live.is_started:
            self._live.stop()
            seconds = self._monotonic() - self._begun
            self._console.print(Text(f"task {self._task}  {seconds:.1f} s"), style="dim", soft_wrap=True)

    def _enter(self, stage: str) -> None:
        if stage == "queued":
            self._percent, self._message = None, ""  # another attempt begins from nothing
        if stage != "pulling":
            self._pull = None
        self._stage = stage

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw a line for the phase, and one for each bar. No line is longer than the terminal is wide."""
        where = f" on {self._node}" if self._node and self._stage != "offered" else ""
        reason = f" ({self._reason})" if self._reason else ""
        words = f"{WORDS.get(self._stage, plain(self._stage))}{where}{reason}"
        seconds = f"{self._monotonic() - self._begun:.0f} s"
        lines = Table.grid(padding=(0, 1))
        lines.add_column(no_wrap=True)
        lines.add_column(no_wrap=True, overflow="ellipsis")
        lines.add_row(self._spinner, Text(f"{words}  {seconds}", style="bold"))
        yield lines
        bars = Table.grid(padding=(0, 1), expand=True)
        bars.add_column(no_wrap=True, width=8)
        bars.add_column(no_wrap=True, width=min(BAR_WIDTH, max(4, options.max_width // 3)))
        bars.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        if self._pull is not None:
            done, total = self._pull
            bars.add_row("image", ProgressBar(max(total, 1), min(done, total)), f"{decimal(done)} of {decimal(total)}")
        if self._percent is not None:
            bars.add_row("progress", ProgressBar(100, self._percent), f"{self._percent:>3} % {self._message}".rstrip())
        if bars.row_count:
            yield bars
