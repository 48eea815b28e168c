"""Errors as clients see them: RFC 9457 problem documents with a stable code.

`agent.codes` is the one table of codes. Code that answers a request raises `Problem`; nothing else of an
exception ever reaches a client.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from aiohttp import web

from agent.codes import CODES

CONTENT_TYPE = "application/problem+json"


class Document(msgspec.Struct, frozen=True, omit_defaults=True):
    """A problem document.

    Attributes:
        code: Stable; what a program looks at.
        detail: One sentence for people.
        field: The part of the request that is wrong, where it is one.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    field: str | None = None


class Problem(Exception):
    """A request that ends with a problem document."""

    def __init__(
        self, code: str, detail: str, *, field: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.field = field
        self.headers = dict(headers or {})

    def response(self) -> web.Response:
        """Give the answer to the client."""
        return web.Response(
            status=CODES[self.code].status,
            body=document(self.code, self.detail, self.field),
            content_type=CONTENT_TYPE,
            headers=self.headers,
        )


def document(code: str, detail: str, field: str | None = None) -> bytes:
    """Write a problem document."""
    status, title, _, _ = CODES[code]
    name = code.lower().replace("_", "-")
    return msgspec.json.encode(Document(f"urn:fernd:problem:{name}", title, status, detail or title, code, field))


def invalid(field: str, detail: str) -> Problem:
    """Say which part of a request is wrong, and what was expected."""
    return Problem("INVALID", detail, field=field)


def not_found(what: str) -> Problem:
    """Say that the account has no such thing, whether or not another one has."""
    return Problem("NOT_FOUND", f"there is no such {what}")


def unauthenticated(detail: str) -> Problem:
    """Say that a token is missing or unknown."""
    return Problem("UNAUTHENTICATED", detail, headers={"WWW-Authenticate": 'Bearer realm="fernd"'})


def unavailable(detail: str, retry_after: int = 1) -> Problem:
    """Say that asking again a little later is worth the while."""
    return Problem("UNAVAILABLE", detail, headers={"Retry-After": str(retry_after)})


def of_http(error: web.HTTPException) -> Problem:
    """Turn an error that aiohttp raised, such as for an unknown path, into a problem."""
    match error:
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            return Problem("METHOD_NOT_ALLOWED", f"allowed here: {allowed}", headers={"Allow": allowed})
        case web.HTTPNotFound():
            return Problem("NOT_FOUND", "there is nothing at this path")
        case web.HTTPRequestEntityTooLarge():
            return Problem("TOO_LARGE", "the body is larger than is taken here")
        case _ if error.status < 500:
            return Problem("INVALID", "the request cannot be understood")
        case _:
            return Problem("INTERNAL", "the error was logged")
