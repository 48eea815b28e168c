"""The task API as any program can use it: plain HTTP with nothing but Python's standard library."""

from __future__ import annotations

import json
from collections.abc import Iterator
from email.message import Message
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

SECONDS = 90.0
"""A dispatcher that says nothing for so long will not."""


class Answer(NamedTuple):
    """An HTTP answer, whatever its status."""

    status: int
    headers: Message
    body: bytes

    def json(self) -> Any:
        """Read the body."""
        return json.loads(self.body)


class Refused(Exception):
    """The dispatcher says no, in its own words."""

    def __init__(self, request: str, answer: Answer) -> None:
        super().__init__(f"{request} answered {answer.status}: {answer.body.decode(errors='replace')}")


class Api:
    """Calls of one account on one dispatcher."""

    def __init__(self, address: str, token: str) -> None:
        self._address = address
        self._token = token

    def call(self, method: str, path: str, body: bytes | None = None, content_type: str = "", **headers: str) -> Answer:
        """Send a request.

        Args:
            path: What comes after `/v1/`, with the query string.
        """
        request = self._request(method, path, body, content_type, headers)
        try:
            with urlopen(request, timeout=SECONDS) as response:  # noqa: S310 - see _request
                return Answer(response.status, response.headers, response.read())
        except HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read())

    def document(self, method: str, path: str, content: object = None) -> Any:
        """Send JSON and give the JSON of the answer, which must be a success.

        Raises:
            Refused: It is none.
        """
        body = None if content is None else json.dumps(content).encode()
        answer = self.call(method, path, body, "application/json" if body else "")
        if not 200 <= answer.status < 300:
            raise Refused(f"{method} /v1/{path}", answer)
        return answer.json() if answer.body else None

    def events(self, task: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Follow a task: the kind and content of what happens to it, until its end.

        Raises:
            Refused: There is no stream.
        """
        path = f"task/{task}/events"
        request = self._request("GET", path, None, "", {"Accept": "text/event-stream"})
        try:
            with urlopen(request, timeout=SECONDS) as response:  # noqa: S310 - see _request
                kind = ""
                for line in response:
                    name, _, value = line.decode().rstrip("\n").partition(": ")
                    if name == "event":
                        kind = value
                    elif name == "data":
                        yield kind, json.loads(value)
        except HTTPError as error:
            with error:
                raise Refused(f"GET /v1/{path}", Answer(error.code, error.headers, error.read())) from None

    def _request(
        self, method: str, path: str, body: bytes | None, content_type: str, headers: dict[str, str]
    ) -> Request:
        request = Request(f"{self._address}/v1/{path}", body, method=method)  # noqa: S310 - the address is of fernd up, which is http
        request.add_header("Authorization", f"Bearer {self._token}")
        if content_type:
            request.add_header("Content-Type", content_type)
        for name, value in headers.items():
            request.add_header(name, value)
        return request
