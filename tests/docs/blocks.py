"""The code blocks of the pages in docs/, and what each of them is there for.

A block is fenced and says its language. A comment on the line above its fence says more:

    <!-- run -->             it is run, with the others of its page, in their order
    <!-- file: PATH -->      it is a file of the function that the page shows
    <!-- shown: REASON -->   it is not run, and why
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parents[2] / "docs"

_FENCE = re.compile(r"```(.*)")
_MARK = re.compile(r"<!-- (run|file|shown)(?:: (.+))? -->")


class Block(NamedTuple):
    """A code block.

    Attributes:
        number: Line of its fence.
        mark: ``run``, ``file``, ``shown``, or nothing.
        words: What the mark says beside that: a path, a reason.
    """

    page: Path
    number: int
    language: str
    mark: str
    words: str
    text: str

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"docs/{self.page.name}:{self.number}"


def pages() -> list[Path]:
    """List the pages."""
    return sorted(DOCS.glob("*.md"))


def blocks(page: Path) -> Iterator[Block]:
    """Give the code blocks of a page."""
    lines = page.read_text(encoding="utf-8").split("\n")
    number = 0
    while number < len(lines):
        if opening := _FENCE.fullmatch(lines[number]):
            end = lines.index("```", number + 1)
            mark = _MARK.fullmatch(lines[number - 1]) if number else None
            text = "\n".join(lines[number + 1 : end]) + "\n"
            yield Block(page, number + 1, opening[1], mark[1] if mark else "", mark[2] or "" if mark else "", text)
            number = end
        number += 1


def all_blocks() -> list[Block]:
    """Give the code blocks of all pages."""
    return [block for page in pages() for block in blocks(page)]


def unfenced(page: Path) -> list[int]:
    """Give the lines of a page where a code block begins that is not fenced, and so says no language."""
    inside, before = False, ""
    found = []
    for number, line in enumerate(page.read_text(encoding="utf-8").split("\n"), start=1):
        if line.startswith("```"):
            inside = not inside
        elif not inside and line.startswith("    ") and not before.strip():
            found.append(number)
        before = line
    return found
