"""Figures and traces as an operator gets them: of running programs and a real function, looked over by promtool."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.e2e.up import SECONDS, Up
from tests.images import built

pytestmark = pytest.mark.engine

HEADERS = """
import json, os
from http.server import BaseHTTPRequestHandler, HTTPServer

class Headers(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

HTTPServer(("", int(os.environ["PORT"])), Headers).serve_forever()
"""
ROOT = Path(__file__).resolve().parents[2]
PROMTOOL = shutil.which("promtool") or shutil.which("promtool", path=ROOT / ".cache/promtool/usr/bin")
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def spans() -> Iterator[tuple[str, Queue[Any]]]:
    """A collector of OTLP: its address, and the spans that come."""
    came: Queue[Any] = Queue()

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.end_headers()
            for span in request.resource_spans[0].scope_spans[0].spans:
                came.put(span)

        def log_message(self, *_args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", came
    server.shutdown()
    thread.join()
    server.server_close()


def fetched(url: str, **headers: str) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=SECONDS) as answer:
        return bytes(answer.read())


def samples(text: bytes) -> dict[str, float]:
    lines = (line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


def test_a_call_is_seen_in_figures_and_traces(
    tmp_path: Path, spans: tuple[str, Queue[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The function gets the caller's traceparent; both programs count the call, and its phases are spans."""
    collector, came = spans
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("FERND_METRICS_LISTEN", f"127.0.0.1:{port}")
    monkeypatch.setenv("FERND_OTEL_ENDPOINT", collector)
    with built("figures", "headers.py", HEADERS) as image:
        up = Up(tmp_path / "data")
        try:
            environ = os.environ | up.environ
            command = [sys.executable, "-m", "agent.cli", "function", "create", "headers", "--image", image, "--json"]
            created = subprocess.run(command, env=environ, capture_output=True, text=True, check=True, timeout=SECONDS)
            request = urllib.request.Request(
                f"{up.url}/v1/task/{json.loads(created.stdout)['id']}",
                method="POST",
                headers={
                    "Authorization": up.environ["FERND_TOKEN"],
                    "Prefer": f"wait={SECONDS:.0f}",
                    "traceparent": f"00-{TRACE}-{PARENT}-01",
                },
            )
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                assert answer.headers["X-Task-State"] == "finished"
                assert json.loads(answer.read())["traceparent"] == f"00-{TRACE}-{PARENT}-01"
            whole, *phases = [came.get(timeout=SECONDS) for _ in range(4)]
            assert (whole.trace_id.hex(), whole.parent_span_id.hex()) == (TRACE, PARENT)
            assert [span.name for span in phases] == ["queued", "starting", "running"]
            assert all(span.end_time_unix_nano > span.start_time_unix_nano for span in phases[1:])
            dispatcher = fetched(f"{up.url}/metrics")
            node = fetched(f"http://127.0.0.1:{port}/metrics")
            printed = subprocess.run(
                [sys.executable, "-m", "agent.cli", "agent", "metrics", "--data-dir", str(tmp_path / "data/agent")],
                capture_output=True,
                check=True,
                timeout=SECONDS,
            ).stdout
        finally:
            assert up.stop() == 0
    names = re.compile(rb"^# TYPE .*$", re.MULTILINE)
    assert names.findall(printed) == names.findall(node)
    counted = samples(dispatcher)
    assert counted['fernd_tasks_ended_total{code="OK"}'] == counted['fernd_task_starts_total{start="cold"}'] == 1
    counted = samples(node)
    assert counted['fernd_node_attempts_ended_total{ending="answered"}'] == 1
    assert counted['fernd_node_phase_seconds_sum{phase="starting"}'] > 0
    assert counted["fernd_node_engine_call_seconds_count"] > 5
    assert counted['fernd_node_engine_failures_total{kind="away"}'] == 0
    assert counted["fernd_node_available"] == counted["fernd_node_connected"] == 1
    if PROMTOOL is None:
        pytest.skip("promtool is not there: deploy/ensure-test-tools.sh")
    for text in (dispatcher, node, printed):
        done = subprocess.run([PROMTOOL, "check", "metrics"], input=text, capture_output=True, check=False, timeout=30)
        assert (done.returncode, done.stdout + done.stderr) == (0, b"")
