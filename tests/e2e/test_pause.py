"""The owner of a machine takes it for himself while tasks run, and gives it back: the programs as they are used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import docker
import psutil
import pytest

from tests.e2e.up import SECONDS, Up
from tests.images import built

pytestmark = [pytest.mark.engine, pytest.mark.timeout(180)]

BUSY = """
import os, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer

def work(asked):
    print("::progress::10 at work", file=sys.stderr, flush=True)
    what, seconds = asked.split()
    end = time.process_time() + float(seconds)
    while time.process_time() < end:
        time.sleep(1 if what == b"sleep" else 0)
    return b"done: " + asked

class Busy(BaseHTTPRequestHandler):
    def do_POST(self):
        body = work(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

if "PORT" in os.environ:
    HTTPServer(("", int(os.environ["PORT"])), Busy).serve_forever()
else:
    sys.stdout.buffer.write(work(sys.stdin.buffer.read()))
"""

CPU = 0.5
"""A second of CPU time takes a function two seconds or more: so a pause comes in time, and all find room."""

SLOW_SECONDS = 6
"""The timeout of what takes too long, and for how long it stands still."""


@pytest.fixture
def image() -> Iterator[str]:
    with built("pause", "busy.py", BUSY) as image:
        yield image


@pytest.fixture
def up(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    up = Up(tmp_path_factory.mktemp("up") / "d")
    yield up
    assert up.stop() == 0


def fernd(up: Up, *arguments: str) -> Any:
    """Run a command as a user, and read its JSON."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("FERND_")} | up.environ
    command = [sys.executable, "-m", "agent.cli", *arguments, "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, env=environ, timeout=SECONDS).stdout)


def called(up: Up, method: str, path: str, body: bytes | None = None) -> bytes:
    """Call the API as a program does."""
    headers = {"Authorization": up.environ["FERND_TOKEN"], "Content-Type": "text/plain"}
    request = urllib.request.Request(up.url + path, body, headers, method=method)
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        content: bytes = answer.read()
    return content


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def cpu_seconds(client: docker.APIClient, containers: list[Any]) -> float:
    """Add up the CPU time of all processes in some containers."""
    first = [psutil.Process(client.inspect_container(each["Id"])["State"]["Pid"]) for each in containers]
    processes = [one for process in first for one in (process, *process.children(recursive=True))]
    return sum(process.cpu_times().user + process.cpu_times().system for process in processes)


def test_a_pause_of_running_work(up: Up, image: str) -> None:
    """A call, a job and a call that takes too long stand still past their timeouts, and then end as they should.

    Whoever asks is told why, on the machine and at the dispatcher. Each task was tried once, and has one result.
    """
    agent = ("--data-dir", str(up.directory / "agent"))
    tasks = {}
    for name, mode, timeout, body in (
        ("call", "http", 60, b"spin 2"),
        ("job", "job", 60, b"spin 2"),
        ("slow", "http", SLOW_SECONDS, b"sleep 60"),
    ):
        asked = ("--mode", mode, "--timeout", str(timeout), "--cpu", str(CPU), "--memory", "64", "--retries", "0")
        function = fernd(up, "function", "create", name, "--image", image, *asked)["id"]
        made = called(up, "POST", f"/v1/task/{function}", body)
        tasks[name] = (json.loads(made)["id"], function)

    def shown() -> dict[str, Any]:
        return {name: json.loads(called(up, "GET", f"/v1/task/{task}")) for name, (task, _) in tasks.items()}

    eventually(lambda: all(one["progress"] == 10 for one in shown().values()))
    fernd(up, "agent", "pause", *agent)
    with closing(docker.APIClient(version="auto")) as client:

        def containers() -> list[Any]:
            labels = [f"fernd.function={function}" for _, function in tasks.values()]
            return [each for label in labels for each in client.containers(filters={"label": label})]

        eventually(lambda: [each["State"] for each in containers()] == ["paused"] * 3)
        before = cpu_seconds(client, containers())
        reason = "paused on the machine itself"
        assert fernd(up, "agent", "status", *agent)["reason"] == reason
        eventually(lambda: [node["reason"] for node in fernd(up, "node", "list")] == [reason])
        [node] = fernd(up, "node", "list")
        shown_node = fernd(up, "node", "show", node["hash"])
        assert (node["available"], shown_node["available"], shown_node["reason"]) == (False, False, reason)
        time.sleep(SLOW_SECONDS)  # not for anything to happen: for nothing to
        assert cpu_seconds(client, containers()) == before
    assert {one["state"] for one in shown().values()} == {"running"}

    fernd(up, "agent", "resume", *agent)
    eventually(lambda: {one["state"] for one in shown().values()} == {"finished"})
    assert {name: (one["status"], one["error"], one["attempt"]) for name, one in shown().items()} == {
        "call": (200, None, 1),
        "job": (200, None, 1),
        "slow": (504, "TIMEOUT", 1),
    }
    for name in ("call", "job"):
        assert called(up, "GET", f"/v1/task/{tasks[name][0]}/result") == b"done: spin 2"
    assert len(fernd(up, "task", "list")) == 3
