"""Runs the shell blocks of a page: all in one bash, in their order, as a reader would type them."""

from __future__ import annotations

import re
import secrets
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from tests.docs.blocks import Block

ELSEWHERE = "127.0.0.1:7070"
"""Where the pages have their dispatcher. The tests have theirs on a free port."""


class Shell:
    """One bash. To be used as a context.

    Args:
        directory: Where it starts.
        address: Of the dispatcher, in place of `ELSEWHERE`.
    """

    def __init__(self, directory: Path, environ: Mapping[str, str], address: str) -> None:
        self._address = address
        self._mark = secrets.token_hex(8)
        self._errors = (directory / "stderr").open("w+")
        self._bash = subprocess.Popen(
            ["bash", "-o", "pipefail"],
            cwd=directory,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bash.kill()
        self._bash.communicate()
        self._errors.close()

    def run(self, block: Block) -> None:
        """Run a block; each command succeeds, and prints what a console block says that it prints."""
        steps = _transcript(block.text) if block.language == "console" else ((line, None) for line in _whole(block))
        for command, expected in steps:
            printed = self._do(command, block.place)
            if expected is not None:
                assert _pattern(expected).fullmatch(printed), f"{block.place}: {command}\n{printed}"

    def _do(self, command: str, place: str) -> str:
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        # Braces, so that what the command reads is not our next line.
        self._bash.stdin.write(
            f"{{ {command.replace(ELSEWHERE, self._address)}\n}} </dev/null; echo; echo {self._mark} $?\n"
        )
        self._bash.stdin.flush()
        lines = []
        while not (line := self._bash.stdout.readline()).startswith(self._mark):
            assert line, f"{place}: bash ended at {command}"
            lines.append(line)
        printed = "".join(lines).removesuffix("\n")
        assert line.split()[1] == "0", f"{place}: {command}\n{printed}\n{self._said()}"
        return printed

    def _said(self) -> str:
        self._errors.seek(0)
        return self._errors.read()[-2000:]


def _transcript(text: str) -> Iterator[tuple[str, str]]:
    """Give the commands of a console block, each with what it prints."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, printed = part.partition("\n")
        yield command, printed


def _whole(block: Block) -> list[str]:
    """Give the lines of a block that stand at its left edge, each with what belongs to it."""
    return [line for line in re.split(r"\n(?! )", block.text.rstrip("\n")) if line]


def _pattern(expected: str) -> re.Pattern[str]:
    """Read an expectation: an ellipsis stands for anything, and the last newline does not count."""
    parts = [re.escape(part) for part in expected.removesuffix("\n").split("…")]
    return re.compile(".*".join(parts) + r"\n?", re.DOTALL)
