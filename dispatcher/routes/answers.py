"""How things look in answers: documents, numbers, times."""

from __future__ import annotations

import msgspec
from aiohttp import web


def json(content: object, status: int = 200, location: str | None = None) -> web.Response:
    """Answer with a JSON document."""
    headers = {} if location is None else {"Location": location}
    return web.Response(
        status=status, body=msgspec.json.encode(content), content_type="application/json", headers=headers
    )


def plain(number: float) -> int | float:
    """Show a whole number without a decimal point."""
    return int(number) if number == int(number) else number


def epoch_seconds(ms: int) -> str:
    """Show a time as answers do: a string of epoch seconds."""
    return str(ms // 1000)


def epoch_seconds_or_null(ms: int | None) -> str | None:
    """Show a time that may not have come yet."""
    return None if ms is None else epoch_seconds(ms)
