"""A command behind a pseudo-terminal, and what is to be seen on its screen."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import signal
import struct
import sys
import termios
from collections.abc import Callable
from types import TracebackType
from typing import Self

import pyte

SECONDS = 20.0
"""Whatever is waited for is to be seen within so long, on a busy machine too."""


class Terminal:
    """A terminal on which a command runs. To be used as an asynchronous context.

    Attributes:
        wrote: All bytes that came to the terminal.
        stdout: What the command wrote to its standard output, where that is not the terminal.
    """

    def __init__(
        self, *arguments: str, env: dict[str, str], columns: int = 100, rows: int = 24, piped: bool = False
    ) -> None:
        self.wrote = b""
        self.stdout = b""
        self._arguments = arguments
        self._env = {key: value for key, value in os.environ.items() if not key.startswith("FERND_")} | {
            "TERM": "xterm-256color",
            "COLORTERM": "",
            "NO_COLOR": "",
        }
        self._env |= env
        self._piped = piped
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self._news = asyncio.Event()
        self._size = (columns, rows)

    async def __aenter__(self) -> Self:
        self._master, command_side = pty.openpty()
        self._set_size()
        # With a controlling terminal of its own, so that Ctrl-C is a signal and a new size too.
        self._process = await asyncio.create_subprocess_exec(
            *("setsid", "--ctty", sys.executable, "-m", "agent.cli", *self._arguments),
            stdin=command_side,
            stdout=asyncio.subprocess.PIPE if self._piped else command_side,
            stderr=command_side,
            env=self._env,
        )
        os.close(command_side)
        asyncio.get_running_loop().add_reader(self._master, self._read)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        asyncio.get_running_loop().remove_reader(self._master)
        os.close(self._master)
        if error is not None:
            sys.stdout.write("The screen was:\n" + self.text + "\n")

    @property
    def lines(self) -> list[str]:
        """What is to be seen, without blanks at the ends of lines."""
        return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines).rstrip()

    def cells(self, row: int) -> list[tuple[str, str]]:
        """Give the characters of a line, each with its colour."""
        line = self._screen.buffer[row]
        return [(line[column].data, line[column].fg) for column in range(self._screen.columns)]

    def is_dim(self, words: str) -> bool:
        """Say whether words are to be seen, and dimmed (which pyte does not show, so the bytes tell)."""
        return b"\x1b[2m" + words.encode() in self.wrote

    async def shows(self, *words: str) -> None:
        """Wait until all of these words are on the screen."""
        await self.until(lambda: all(word in self.text for word in words))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that is to be seen."""
        async with asyncio.timeout(SECONDS):
            while not condition():
                self._news.clear()
                await self._news.wait()

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        self._size = (columns, rows)
        self._screen.resize(rows, columns)
        self._set_size()

    def signal(self, sign: signal.Signals) -> None:
        self._process.send_signal(sign)

    async def ended(self) -> int:
        """Wait for the command's end, and give its exit code."""
        async with asyncio.timeout(SECONDS):
            if self._process.stdout is not None:
                self.stdout = await self._process.stdout.read()
            code = await self._process.wait()
        self._read()
        return code

    def _set_size(self) -> None:
        columns, rows = self._size
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _read(self) -> None:
        os.set_blocking(self._master, False)
        while True:
            try:
                piece = os.read(self._master, 65_536)
            except OSError:  # nothing is there now, or the command has ended
                break
            if not piece:
                break
            self.wrote += piece
            self._stream.feed(piece)
        self._news.set()
