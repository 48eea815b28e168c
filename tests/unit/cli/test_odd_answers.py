"""What answers need not be a dispatcher: a proxy, a captive portal, a newer version."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import CliRunner

from agent.cli.main import fernd

COMMANDS = [
    "task list",
    "task show 1",
    "task result 1",
    "task logs 1",
    "node list",
    "node show 1",
    "node join-token",
    "function list",
    "function show x",
    "function create n --image i",
    "invoke x",
    "token list",
    "audit",
]


class Odd(BaseHTTPRequestHandler):
    body = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_POST = do_DELETE = do_GET  # noqa: N815 - names of the library

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Odd) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("body", [b"{}", b"[]", b"[{}]", b'"x"', b'{"id": 1}', b"null", b"<html>", b"\xff", b""])
def test_no_answer_brings_a_traceback(url: str, monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    """Whatever comes, a command says one sentence and ends with 0 or 1."""
    monkeypatch.setattr(Odd, "body", body)
    runner = CliRunner(env={"FERND_URL": url, "FERND_TOKEN": "token"})
    for command in COMMANDS:
        done = runner.invoke(fernd, command.split())
        assert done.exit_code in {0, 1}, command
        assert done.exception is None or isinstance(done.exception, SystemExit), command
        if done.exit_code:
            assert done.stderr.splitlines()[-1].startswith("error: "), command
            assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 1, command


def test_the_place_is_shown_where_it_is_asked_for(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks for a fault gets the exception itself."""
    monkeypatch.setattr(Odd, "body", b"[{}]")
    runner = CliRunner(env={"FERND_URL": url, "FERND_TOKEN": "token"})
    with pytest.raises(KeyError):
        runner.invoke(fernd, ["--traceback", "task", "list"], catch_exceptions=False)
