"""Lists in pages: ``?limit=`` and ``?cursor=``, and the next page in a ``Link`` header (RFC 8288)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar
from urllib.parse import quote, urlencode

from aiohttp import web

from dispatcher.problem import invalid
from dispatcher.routes.answers import json
from dispatcher.routes.reading import parameter

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000

T = TypeVar("T")


def limit_of(request: web.Request, most: int = MAX_LIMIT) -> int:
    """Read how many entries a page may have.

    Raises:
        Problem: It is not a number from 1 to ``most``.
    """
    text = parameter(request, "limit")
    if text is None:
        return min(DEFAULT_LIMIT, most)
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise invalid("limit", f"limit: expected a number from 1 to {most}")
    return int(text)


def cursor_of(request: web.Request, good: Callable[[str], bool]) -> str | None:
    """Read where a page starts.

    Raises:
        Problem: It is no id.
    """
    cursor = parameter(request, "cursor")
    if cursor is not None and not good(cursor):
        raise invalid("cursor", "cursor: expected one from a Link header")
    return cursor


def page(
    request: web.Request,
    rows: Sequence[T],
    view: Callable[[T], object],
    id_of: Callable[[T], str],
    most: int = MAX_LIMIT,
) -> web.Response:
    """Answer with a page of a list.

    Args:
        rows: What was found, with one entry more than fits where there is a next page.
    """
    limit = limit_of(request, most)
    shown, more = rows[:limit], len(rows) > limit
    return part(request, [view(row) for row in shown], id_of(shown[-1]) if more else None)


def part(request: web.Request, shown: Sequence[object], cursor: str | None) -> web.Response:
    """Answer with a part of a list; where there is more of it, ``cursor`` says where that begins."""
    response = json(shown)
    if cursor is not None:
        others = [(name, value) for name, value in request.query.items() if name != "cursor"]
        query = urlencode([*others, ("cursor", cursor)], quote_via=quote)
        response.headers["Link"] = f'<{request.path}?{query}>; rel="next"'
    return response
