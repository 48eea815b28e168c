"""Writes the pages of the reference that are made from the code: ``python -m docs.reference``."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from agent.codes import REQUESTS, TASKS, Code
from docs import api, configuration, states

HERE = Path(__file__).resolve().parent

WIDTH = 120
MADE = "<!-- Made from the code by `make reference`. -->"


def errors() -> str:
    """Write the page of error codes."""
    return _page(
        "# Errors",
        "An error is a problem document (RFC 9457, `application/problem+json`) with a stable `code`, an HTTP `status`,"
        " a `title`, a `detail` about this very case and, where one part of the request is wrong, its name in `field`."
        " `fernd explain CODE` prints what stands here.",
        "## Of a request",
        *_codes(REQUESTS),
        "## Of a task",
        "A task that has no answer of its function has one of these in its `error`, and its result is a problem"
        " document.",
        *_codes(TASKS),
    )


def http_api() -> str:
    """Write the page of the HTTP API."""
    return _page(*api.page())


def settings() -> str:
    """Write the page of settings."""
    return _page(*configuration.page())


def pictures() -> str:
    """Write the page of states."""
    return _page(*states.page())


PAGES: Mapping[str, Callable[[], str]] = {
    "api.md": http_api,
    "configuration.md": settings,
    "errors.md": errors,
    "states.md": pictures,
}
"""Files in this directory, and what writes them."""


def _codes(codes: Mapping[str, Code]) -> Iterator[str]:
    for name, code in codes.items():
        yield f"### {name}"
        yield f"{code.status}: {code.title}."
        yield f"**Cause.** {code.cause}"
        yield f"**Cure.** {code.cure}"


def _page(*paragraphs: str) -> str:
    return "\n\n".join([MADE, *map(_wrapped, paragraphs)]) + "\n"


def _wrapped(paragraph: str) -> str:
    if paragraph.startswith(("|", "- ", "```")):  # rows, points and lines of a block are as they are
        return paragraph
    return textwrap.fill(paragraph, WIDTH, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    for name, write in PAGES.items():
        (HERE / name).write_text(write())
