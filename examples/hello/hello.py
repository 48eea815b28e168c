"""Greets whoever is named: an HTTP function with nothing but Python's standard library.

The name comes from the query (`?name=Ada`), or from a JSON body (`{"name": "Ada"}`).
"""

from __future__ import annotations

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


def greeting(query: str, body: bytes) -> str:
    """Make the greeting.

    Raises:
        ValueError: The body is not a JSON object, or its name is no text.
    """
    names = parse_qs(query).get("name")
    if names:
        return f"Hello, {names[0]}!"
    content = json.loads(body or b"{}")
    if not isinstance(content, dict):
        raise ValueError("the body is not a JSON object")  # noqa: TRY004 - what is wrong is the caller's text
    name = content.get("name", "world")
    if not isinstance(name, str):
        raise ValueError("name is not a text")  # noqa: TRY004
    return f"Hello, {name}!"


class Hello(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Greet, or say what is wrong with the body."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            self._answer(200, {"greeting": greeting(urlsplit(self.path).query, body)})
        except (ValueError, RecursionError) as error:
            self._answer(400, {"error": str(error)})

    def _answer(self, status: int, content: dict[str, str]) -> None:
        text = json.dumps(content, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


if __name__ == "__main__":
    ThreadingHTTPServer(("", int(os.environ.get("PORT", "8080"))), Hello).serve_forever()
