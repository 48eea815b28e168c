"""The table of codes, and the documents made from it."""

from __future__ import annotations

import re
from http import HTTPStatus

import msgspec
import pytest
from aiohttp import web

from agent.codes import CODES, REQUESTS, TASKS
from dispatcher import endings
from dispatcher.problem import Problem, document, invalid, of_http

CONTRACT = {
    "UNAUTHENTICATED": 401, "FORBIDDEN": 403, "NOT_FOUND": 404, "INVALID": 400, "TOO_LARGE": 413, "NO_RUNNER": 409,
    "CONFLICT": 409, "QUEUE_FULL": 429, "NOT_FINISHED": 404, "UNAVAILABLE": 503, "TIMEOUT": 504, "OOM_KILLED": 500,
    "CRASHED": 502, "NEVER_READY": 502, "BAD_RESPONSE": 502, "RESULT_TOO_LARGE": 502, "IMAGE_UNAVAILABLE": 503,
    "NODE_LOST": 503, "NO_CAPABLE_NODE": 503, "CANCELLED": 499,
}  # fmt: skip


def test_codes_have_the_statuses_of_the_contract() -> None:
    """No code of the contract is missing or has another status."""
    assert {code: CODES[code].status for code in CONTRACT} == CONTRACT
    assert not set(REQUESTS) & set(TASKS)
    assert set(endings.CODE.values()) <= set(TASKS)


@pytest.mark.parametrize("code", CODES)
def test_documents_have_every_member(code: str) -> None:
    """Each code makes a whole document; `field` is there only where one is named."""
    found = msgspec.json.decode(document(code, ""))
    assert set(found) == {"type", "title", "status", "detail", "code"}
    assert re.fullmatch(r"urn:fernd:problem:[a-z-]+", found["type"])
    assert found["detail"] == found["title"]
    assert msgspec.json.decode(document(code, "why", "limit"))["field"] == "limit"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (web.HTTPNotFound(), "NOT_FOUND"),
        (web.HTTPMethodNotAllowed("PUT", ["GET"]), "METHOD_NOT_ALLOWED"),
        (web.HTTPRequestEntityTooLarge(1, 2), "TOO_LARGE"),
        (web.HTTPBadRequest(text="secret"), "INVALID"),
        (web.HTTPExpectationFailed(), "INVALID"),
        (web.HTTPInternalServerError(text="secret"), "INTERNAL"),
    ],
)
def test_errors_of_the_library_become_ours(error: web.HTTPException, code: str) -> None:
    """None of its words are passed on."""
    found = of_http(error)
    assert found.code == code
    assert "secret" not in found.detail


async def test_response_carries_status_headers_and_document() -> None:
    """A problem answers with its status, its type and its own headers."""
    response = Problem("QUEUE_FULL", "later", headers={"Retry-After": "5"}).response()
    assert (response.status, response.content_type) == (HTTPStatus.TOO_MANY_REQUESTS, "application/problem+json")
    assert response.headers["Retry-After"] == "5"
    assert invalid("limit", "limit: expected a number").field == "limit"
