"""The command line as its users have it: `fernd up`, every command against it, and how it all ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.up import SECONDS, Up
from tests.images import built

pytestmark = pytest.mark.engine

ECHO = """
import os, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qsl, urlsplit

class Echo(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = dict(parse_qsl(urlsplit(self.path).query))
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        print("::progress::50 half way", file=sys.stderr)
        print("said: " + asked.get("say", ""), file=sys.stderr)
        time.sleep(float(asked.get("sleep", 0)))
        if "die" in asked:
            os._exit(3)
        self.send_response(int(asked.get("status", 200)))
        self.send_header("Content-Type", self.headers["Content-Type"] or "text/plain")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

if os.environ["PORT"] == "none":
    sys.exit(7)
HTTPServer(("", int(os.environ["PORT"])), Echo).serve_forever()
"""


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    """A function that answers with its input, and does what the query string says."""
    with built("cli", "echo.py", ECHO) as image:
        yield image


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """Start `fernd up`; all that were started are gone at the end."""
    started: list[Up] = []

    def start(listen: str = "127.0.0.1:0") -> Up:
        started.append(Up(tmp_path / "d", listen))
        return started[-1]

    yield start
    for one in started:
        if not one.log.closed:
            one.stop()


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One `fernd up` for the tests that do not end it."""
    up = Up(tmp_path_factory.mktemp("up") / "d")
    yield up
    assert up.stop() == 0


class Fernd:
    """Runs commands as a user of one dispatcher."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.environ = {key: value for key, value in os.environ.items() if not key.startswith("FERND_")} | environ

    def __call__(self, *arguments: str | Path, stdin: bytes = b"", code: int = 0) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [sys.executable, "-m", "agent.cli", *arguments],
            input=stdin,
            capture_output=True,
            env=self.environ,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == code, done
        assert b"Traceback" not in done.stderr
        return done

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", code=code).stdout)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "agent.cli", *arguments]
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environ,
        )


@pytest.fixture(scope="module")
def fernd(up: Up) -> Fernd:
    return Fernd(up.environ)


@pytest.fixture(scope="module")
def echo(fernd: Fernd, image: str) -> str:
    """The name of a function that echoes."""
    fernd("function", "create", "echo", "--image", image, "--timeout", "20")
    return "echo"


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, with a deadline."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def read_until(process: subprocess.Popen[str], line: str) -> str:
    """Read what a command says until it says a line."""
    assert process.stderr is not None
    seen = ""
    while not seen.endswith(f"{line}\n"):
        more = process.stderr.readline()
        assert more, seen
        seen += more
    return seen


def test_up_keeps_its_token_to_itself(up: Up) -> None:
    """The token and the directory are for the owner alone, and the token is in no log."""
    assert up.token_file == up.directory / "api-token"
    assert up.token_file.stat().st_mode & 0o777 == 0o600
    assert up.directory.stat().st_mode & 0o777 == 0o700
    assert up.environ["FERND_TOKEN"] not in Path(up.log.name).read_text()


def test_up_again_on_the_same_directory(up: Up, fernd: Fernd) -> None:
    """Two cannot share a data directory; the second says so, and the first goes on."""
    done = fernd("up", "--data-dir", up.directory, "--listen", "127.0.0.1:0", code=1)
    assert b"is in use" in done.stderr
    fernd("node", "list")


def test_functions(fernd: Fernd, image: str) -> None:
    """A function is created, shown by id and name, changed, listed and deleted."""
    options = ["--description", "some words", "--lang", "py", "--env", "A=1", "--env", "B=x=y", "--no-reuse"]
    options += ["--concurrency", "4"]
    more = ["--retries", "1", "--grace", "2", "--ready-path", "/ready"]
    needs = ["--timeout", "30", "--cpu", "0.5", "--memory", "128"]
    function_id = fernd.json("function", "create", "one", "--image", image, *options, *more, *needs)["id"]
    shown = fernd.json("function", "show", "one")
    assert shown == fernd.json("function", "show", function_id)
    assert shown == shown | {
        "id": function_id,
        "name": "one",
        "image": image,
        "lang": "PY",
        "description": "some words",
        "env": {"A": "1", "B": "x=y"},
        "reuse": False,
        "concurrency": 4,
        "retries": 1,
        "grace": 2,
        "readyPath": "/ready",
        "network": "none",
    }
    assert shown["capabilities"] == {
        "timeout": 30,
        "cpuCount": 0.5,
        "memSize": 128,
        "networkLatency": 0,
        "privileged": False,
    }
    assert fernd.json("function", "set", "one", "--mode", "job", "--memory", "64", "--reuse") == {"id": function_id}
    changed = fernd.json("function", "show", "one")
    assert (changed["mode"], changed["reuse"], changed["env"]) == ("job", True, {"A": "1", "B": "x=y"})
    assert (changed["capabilities"]["memSize"], changed["capabilities"]["timeout"]) == (64, 30)
    assert b"capabilities.memSize  " in fernd("function", "show", "one").stdout
    assert function_id.encode() in fernd("function", "list").stdout
    assert function_id in [found["id"] for found in fernd.json("function", "list")]
    fernd("function", "delete", "one")
    assert b"error: NOT_FOUND" in fernd("function", "show", "one", code=1).stderr


def test_a_function_is_created_whole_or_not_at_all(fernd: Fernd, image: str) -> None:
    """A requirement that the dispatcher refuses leaves no half-made function behind."""
    done = fernd("function", "create", "half", "--image", image, "--memory", "1", code=2)
    assert b"error: INVALID: memSize" in done.stderr
    fernd("function", "show", "half", code=1)


def test_usage(fernd: Fernd, echo: str) -> None:
    """What cannot be meant ends with 2, before anything is sent."""
    fernd("function", "create", code=2)
    fernd("function", "set", echo, code=2)
    fernd("function", "create", "x", "--env", "novalue", code=2)
    fernd("invoke", echo, "-q", "novalue", code=2)
    fernd("invoke", echo, "-b", "@/does/not/exist", code=2)
    fernd("invoke", echo, "-b", "x", "--content-type", "a\r\nb: c", code=2)
    fernd("task", "list", "--state", "nowhere", code=2)
    Fernd({"XDG_CONFIG_HOME": "/does/not/exist"})("task", "list", code=2)


def test_invoke_prints_the_answer_alone(fernd: Fernd, echo: str) -> None:
    """The answer's bytes are all of stdout; states, progress and log lines are on stderr."""
    done = fernd("invoke", echo, "-b", '{"a": 1}', "-q", "say=one & two", "-q", "sleep=0.5")
    assert done.stdout == b'{"a": 1}'
    said = done.stderr.decode().splitlines()
    assert re.fullmatch("task [0-9a-f]{24}", said[0])
    for line in ("queued", "running", " 50 % half way", "| said: one & two"):
        assert line in said
    assert any(line.startswith("accepted by ") for line in said)


def test_invoke_with_bytes(fernd: Fernd, echo: str, tmp_path: Path) -> None:
    """A file and stdin go in, and come out, byte for byte, also where they are large."""
    content = bytes(range(256)) * 4096
    file = tmp_path / "photo"
    file.write_bytes(content)
    assert fernd("invoke", echo, "-b", f"@{file}").stdout == content
    assert fernd("invoke", echo, "-b", "-", stdin=content).stdout == content
    assert fernd("invoke", echo).stdout == b""


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["-b", "[1]"], "application/json"),
        (["-b", "words"], "text/plain; charset=utf-8"),
        (["-b", "[1]", "--content-type", "text/x-list"], "text/x-list"),
    ],
)
def test_content_type(fernd: Fernd, echo: str, arguments: list[str], kind: str) -> None:
    """The function learns what its input is: what the user says, or what it can be read as."""
    answer = fernd.json("invoke", echo, *arguments)
    assert answer["headers"]["Content-Type"] == kind
    assert (answer["status"], answer["error"], answer["body"]) == (200, None, arguments[1])


def test_invoke_of_a_function_that_answers_an_error(fernd: Fernd, echo: str) -> None:
    """The function's own error is its answer, and the exit code tells."""
    done = fernd("invoke", echo, "-q", "status=418", "-b", "short and stout", code=1)
    assert done.stdout == b"short and stout"
    assert done.stderr.decode().splitlines()[-1] == "error: the function answered 418"
    assert fernd.json("invoke", echo, "-q", "status=418", code=1)["status"] == 418


def test_invoke_of_a_job_that_fails(fernd: Fernd, image: str) -> None:
    """The exit code of a job is told."""
    fernd("function", "create", "failing", "--image", image, "--mode", "job", "--env", "PORT=none")
    done = fernd("invoke", "failing", code=1)
    assert done.stdout == b""
    assert done.stderr.decode().splitlines()[-1] == "error: the function answered 500 (exit code 7)"


def test_invoke_of_a_function_that_never_answers(fernd: Fernd, echo: str) -> None:
    """A task without an answer leaves stdout empty; why is on stderr, or in the JSON document."""
    done = fernd("invoke", echo, "-q", "die=1", code=1)
    assert done.stdout == b""
    assert b"\nerror: CRASHED: " in done.stderr
    assert fernd.json("invoke", echo, "-q", "die=1", code=1)["error"] == "CRASHED"


def test_invoke_of_nothing(fernd: Fernd) -> None:
    """A function that does not exist is told by name."""
    assert fernd("invoke", "nothing", code=1).stderr == b"error: NOT_FOUND: there is no function nothing\n"
    assert fernd("invoke", "\udcff", code=1).stderr.startswith(b"error: ")


def test_invoke_waits_no_longer_than_told(fernd: Fernd, echo: str) -> None:
    """After the wait the task goes on, and its answer can be read later."""
    done = fernd("invoke", echo, "-q", "sleep=1", "-b", "late", "--timeout-wait", "0.2", code=1)
    task_id = done.stderr.decode().split()[1]
    assert f"see `fernd task result {task_id}`" in done.stderr.decode()
    assert b"NOT_FINISHED" in fernd("task", "result", task_id, code=1).stderr
    until(lambda: fernd.json("task", "show", task_id)["state"] == "finished")
    assert fernd("task", "result", task_id).stdout == b"late"


def test_ctrl_c_cancels(fernd: Fernd, echo: str) -> None:
    """Ctrl-C ends the task, not only the command, with the exit code that shells expect."""
    process = fernd.start("invoke", echo, "-q", "sleep=15")
    task_id = read_until(process, " 50 % half way").split()[1]
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert rest.splitlines()[-1] == f"cancelled task {task_id}"
    assert "Traceback" not in rest
    assert fernd.json("task", "show", task_id)["state"] == "cancelled"


def test_tasks(fernd: Fernd, echo: str, image: str) -> None:
    """Tasks are listed by function, state and page, shown, read back, and cancelled."""
    fernd("function", "create", "counted", "--image", image)
    ids = [fernd.json("invoke", "counted", "-b", str(n), "-q", f"say={n}")["id"] for n in range(3)]
    newest_first = list(reversed(ids))
    assert [task["id"] for task in fernd.json("task", "list", "--function", "counted")] == newest_first
    assert [task["id"] for task in fernd.json("task", "list", "--limit", "1")] == newest_first[:1]
    paged = fernd.json("task", "list", "--limit", "1", "--all", "--state", "finished", "--function", "counted")
    assert [task["id"] for task in paged] == newest_first
    assert fernd.json("task", "list", "--function", "counted", "--state", "running") == []
    assert ids[0].encode() in fernd("task", "list").stdout

    shown = fernd.json("task", "show", ids[0])
    assert (shown["state"], shown["progress"], shown["status"]) == ("finished", 100, 200)
    assert b"\ncapabilities.cpuCount " in fernd("task", "show", ids[0]).stdout
    assert fernd("task", "result", ids[0]).stdout == b"0"
    assert fernd.json("task", "result", ids[0])["body"] == "0"
    assert fernd("task", "logs", ids[0]).stdout == b"said: 0\n"
    assert fernd.json("task", "logs", ids[0]) == {"id": ids[0], "log": "said: 0\n"}
    assert b"error: CONFLICT" in fernd("task", "cancel", ids[0], code=1).stderr
    assert b"error: NOT_FOUND" in fernd("task", "show", "../../healthz", code=1).stderr

    process = fernd.start("invoke", echo, "-q", "sleep=15")
    running = read_until(process, " 50 % half way").split()[1]
    fernd("task", "cancel", running)
    out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out) == (1, "")
    assert "error: CANCELLED" in err


def test_nodes(fernd: Fernd, up: Up, tmp_path: Path) -> None:
    """The node is listed and shown; another one joins with a token, is removed, and is restored."""
    (listed,) = fernd.json("node", "list")
    node_id = listed["hash"]
    assert listed["available"]
    assert fernd.json("node", "show", node_id)["hash"] == node_id
    assert b"yes" in fernd("node", "list").stdout
    assert b"capabilities.cpuCount" in fernd("node", "show", node_id).stdout
    token = fernd.json("node", "join-token", "--expires-in", "1m")["token"]
    assert fernd("node", "join-token").stdout.decode().strip() != token
    fernd("agent", "join", up.url, "--token", token, "--data-dir", tmp_path)
    (joined,) = (found["hash"] for found in fernd.json("node", "list") if found["hash"] != node_id)
    fernd("node", "remove", joined)
    assert fernd.json("node", "show", joined)["disabled"]
    fernd("node", "restore", joined)
    assert not fernd.json("node", "show", joined)["disabled"]
    assert b"error: NOT_FOUND" in fernd("node", "show", "nothing", code=1).stderr


def test_the_doctor_finds_the_node_of_up(fernd: Fernd, up: Up) -> None:
    """The directory that `fernd up` was given is enough for the doctor, as it is for the other commands."""
    done = subprocess.run(
        [sys.executable, "-m", "agent.cli", "agent", "doctor", "--json", "--data-dir", up.directory],
        capture_output=True,
        env=fernd.environ,
        timeout=SECONDS,
        check=False,
    )
    found = {check["check"]: check for check in json.loads(done.stdout)["checks"]}
    assert (found["node"]["state"], found["dispatcher"]["state"]) == ("ok", "ok")


def test_login(up: Up, tmp_path: Path) -> None:
    """A good token is remembered, for its owner alone, and serves the next commands; a bad one is not."""
    fernd = Fernd({"XDG_CONFIG_HOME": str(tmp_path)})
    profile = tmp_path / "fernd" / "profile.toml"
    refused = fernd("login", up.url, "--token-file", "-", stdin=b"wrong", code=1)
    assert b"error: UNAUTHENTICATED" in refused.stderr
    assert not profile.exists()
    fernd("login", up.url, "--token-file", up.token_file)
    assert profile.stat().st_mode & 0o777 == 0o600
    fernd("task", "list")


def test_nobody_there(up: Up) -> None:
    """A dispatcher that cannot be reached ends with 3."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        done = Fernd({"FERND_URL": url, "FERND_TOKEN": "token"})("task", "list", code=3)
    assert done.stderr == f"error: cannot reach {url}: Connection refused\n".encode()


def test_stop_lets_work_finish(start: Callable[..., Up], image: str) -> None:
    """The agent ends first, with its work done; who waits gets the answer, if need be from the next `fernd up`."""
    first = start()
    fernd = Fernd(first.environ)
    node_id = fernd.json("node", "list")[0]["hash"]
    fernd("function", "create", "echo", "--image", image)
    process = fernd.start("invoke", "echo", "-q", "sleep=1", "-b", "kept")
    read_until(process, " 50 % half way")
    assert first.stop() == 0
    said = Path(first.log.name).read_text()
    assert said.index("node stopped") < said.rindex('"event":"stopping"')
    second = start(first.url.removeprefix("http://"))
    out, _ = process.communicate(timeout=SECONDS)
    assert (process.returncode, out) == (0, "kept")
    assert fernd.json("node", "list")[0]["hash"] == node_id
    assert second.stop() == 0


def test_a_second_signal_hurries(start: Callable[..., Up], image: str) -> None:
    """Ctrl-C lets running work finish; a second one does not wait for it."""
    up = start()
    fernd = Fernd(up.environ)
    fernd("function", "create", "echo", "--image", image, "--timeout", "60")
    process = fernd.start("invoke", "echo", "-q", "sleep=50")
    read_until(process, " 50 % half way")
    up.process.send_signal(signal.SIGINT)
    until(lambda: "node drains" in Path(up.log.name).read_text())
    begun = time.monotonic()
    up.process.send_signal(signal.SIGINT)
    assert up.wait() == 0
    assert time.monotonic() - begun < 25
    process.kill()
    process.communicate()


@pytest.mark.parametrize("name", ["dispatcher", "agent"])
def test_a_child_that_ends_is_the_end(start: Callable[..., Up], name: str) -> None:
    """When one of the two is gone, the other is stopped, and the error says which it was."""
    up = start()
    up.children[name].kill()
    assert up.wait() == 1
    assert f"error: fernd {name} ended by itself (SIGKILL)" in Path(up.log.name).read_text()


def test_children_notice_a_killed_up(start: Callable[..., Up]) -> None:
    """Nothing stays behind when `fernd up` itself is killed hard, and its directory is free again."""
    first = start()
    first.process.kill()
    assert first.wait() == -signal.SIGKILL
    assert start().stop() == 0


def test_up_on_a_port_that_is_taken(tmp_path: Path) -> None:
    """The dispatcher that cannot listen is told, and nothing stays behind."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        done = Fernd({})("up", "--data-dir", tmp_path / "d", "--listen", listen, code=1)
    assert f"error: cannot listen on {listen}: Address already in use".encode() in done.stderr
    assert b"error: fernd dispatcher ended by itself (exit code 1)" in done.stderr


def test_up_with_a_wrong_setting(tmp_path: Path) -> None:
    """A setting of either program that cannot be used is the user's mistake: the same exit code as for an option."""
    for variable in ("FERND_LIMITS_BODY", "FERND_CAPACITY_SLOTS"):
        done = Fernd({variable: "many"})("up", "--data-dir", tmp_path / "d", "--listen", "127.0.0.1:0", code=2)
        assert f"error: {variable}: expected a whole number".encode() in done.stderr
