"""The demo: `make demo`.

From nothing to three functions that did real work: it sees to the Docker Engine and the images, starts
`fernd up`, creates the functions over the HTTP API, sends them real input, shows their progress, and
checks every answer. Then it leaves `fernd up` running until Ctrl-C; with `--once` it ends by itself,
and exits with 1 if anything was not as it should be.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import quote

import docker
from api import Answer, Api, Refused
from checks import Wrong, expect, png_bomb, png_size, words
from docker.errors import DockerException
from fernd_up import Fernd

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "var" / "demo"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LONG = 2000
"""So many times the text is 6 MB: long enough to watch its progress, and to travel beside the session."""

FUNCTIONS: dict[str, dict[str, Any]] = {
    "hello": {"mode": "http", "description": "Greets whoever is named"},
    "thumbnail": {"mode": "http", "description": "Makes a small PNG of a picture"},
    "wordcount": {"mode": "job", "description": "Counts the words of a text"},
}


class Interrupted(Exception):
    """Somebody asked us to stop."""


def step(title: str) -> None:
    """Begin a part of the account."""
    print(f"\n{title}", flush=True)


def note(text: str) -> None:
    """Say what was done or seen."""
    print(f"  {text}", flush=True)


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    """Say how long something took."""
    start = time.monotonic()
    yield
    note(f"{what:<52} {time.monotonic() - start:6.2f} s")


# Getting ready ------------------------------------------------------------------------------------


def prepare() -> None:
    """See to the engine, the base image and the images of the functions."""
    step("Getting ready")
    run("a Docker Engine answers", str(ROOT / "deploy" / "ensure-engine.sh"))
    run("the base image is there", str(ROOT / "deploy" / "base-image.sh"))
    run("the images of the three functions are built", sys.executable, str(ROOT / "examples" / "build.py"))


def run(what: str, *command: str) -> None:
    """Run a command of ours, which says on stderr what people should know."""
    with timed(what):
        code = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
        expect(code == 0, f"{Path(command[-1]).name} failed; it says above why")


# Working ------------------------------------------------------------------------------------------


def create_functions(api: Api) -> dict[str, str]:
    """Create the functions, or bring those of an earlier run up to date; give their ids."""
    step("Creating the functions")
    ids = {}
    for name, wanted in FUNCTIONS.items():
        content = {"lang": "PY", "image": f"fernd-example-{name}:latest", **wanted}
        known = api.document("GET", f"function/list?name={name}")
        if known:
            ids[name] = known[0]["id"]
            api.document("PATCH", f"function/{ids[name]}", content)
        else:
            ids[name] = api.document("POST", "function", {"name": name, "type": "DOCKER", **content})["id"]
        api.document("POST", f"function/{ids[name]}/capabilities", {"timeout": 30, "cpuCount": 1, "memSize": 256})
        note(f"{name:<10} {'updated' if known else 'created'}  id {ids[name]}")
    return ids


def call(api: Api, function: str, title: str, *, query: str = "", body: bytes | None = None, kind: str = "") -> Answer:
    """Create a task, show its progress, and give its result."""
    start = time.monotonic()
    path = f"task/{function}?{query}" if query else f"task/{function}"
    created = api.call("POST", path, body, kind)
    expect(created.status == 201, f"creating a task answered {created.status}: {created.body!r}")
    task = created.json()["id"]
    note(title)
    said = ""
    for event, content in api.events(task):
        line = describe(event, content)
        if line not in {"", said}:
            note(f"    {line}")
            said = line
    result = api.call("GET", f"task/{task}/result")
    seconds = time.monotonic() - start
    seen = api.document("GET", f"task/{task}")
    expect(seen["state"] == "finished" and seen["error"] is None, f"the task ended as {seen}")
    expect(seen["status"] == result.status and seen["progress"] == 100, f"task and result differ: {seen}")
    note(f"    -> {result.status} in {seconds:.3f} s, {len(result.body):,} bytes of {result.headers['Content-Type']}")
    return result


def describe(event: str, content: dict[str, Any]) -> str:
    """Put what happened to a task into words, if it is worth them."""
    if event == "phase":
        return str(content["phase"])
    if event == "progress":
        return f"{content['progress']:>3} %  {content['message']}"
    return ""


def hello(api: Api, function: str) -> None:
    """Greet, by query and by body, by task id and with `Prefer: wait`."""
    step("hello: http, Python's standard library")
    answer = call(api, function, "?name=Ada Lovelace", query=f"name={quote('Ada Lovelace')}")
    expect(answer.json() == {"greeting": "Hello, Ada Lovelace!"}, f"hello says {answer.body!r}")
    start = time.monotonic()
    body = json.dumps({"name": "Grace"}).encode()
    answer = api.call("POST", f"task/{function}", body, "application/json", Prefer="wait=30")
    seconds = time.monotonic() - start
    expect(answer.status == 200, f"hello answered {answer.status}: {answer.body!r}")
    expect(answer.json() == {"greeting": "Hello, Grace!"}, f"hello says {answer.body!r}")
    note(f"the same once more, warm, in one request (Prefer: wait): {1000 * seconds:.1f} ms")
    expect(call(api, function, "a body that is a list", body=b"[]").status == 400, "hello took a list for a name")


def thumbnail(api: Api, function: str) -> None:
    """Make a thumbnail; see that what is no picture, and what is a trap, is refused."""
    step("thumbnail: http, Pillow")
    picture = (ROOT / "examples" / "thumbnail" / "landscape.jpg").read_bytes()
    title = f"landscape.jpg, {len(picture):,} bytes, ?size=320"
    answer = call(api, function, title, query="size=320", body=picture, kind="image/jpeg")
    expect(answer.status == 200, f"thumbnail answered {answer.status}: {answer.body!r}")
    size = png_size(answer.body)
    expect(size == (320, 213), f"the thumbnail measures {size}, not 320 x 213")
    (DATA / "landscape.png").write_bytes(answer.body)
    note(f"    it is a whole PNG of {size[0]} x {size[1]} pixels: {(DATA / 'landscape.png').relative_to(ROOT)}")
    text = b"This is not a picture."
    expect(
        call(api, function, "a text", body=text, kind="image/png").status == 400, "thumbnail took a text for a picture"
    )
    bomb = png_bomb()
    answer = call(api, function, f"a bomb of {len(bomb):,} bytes", body=bomb, kind="image/png")
    expect(answer.status == 400, "thumbnail let a bomb in")


def wordcount(api: Api, function: str) -> None:
    """Count the words of a text, and count them again by other means."""
    step("wordcount: a job")
    text = (ROOT / "examples" / "wordcount" / "text.txt").read_text(encoding="utf-8")
    own = Counter(words(text))
    for times in (1, LONG):
        title = f"text.txt {f'{times:,} times over' if times > 1 else 'once'}, {times * len(text):,} characters, ?top=3"
        answer = call(api, function, title, query="top=3", body=times * text.encode(), kind="text/plain")
        expect(answer.status == 200, f"wordcount answered {answer.status}: {answer.body!r}")
        counted = answer.json()
        totals = (counted["words"], counted["distinct"], counted["lines"], counted["characters"])
        expected = (times * own.total(), len(own), times * text.count("\n"), times * len(text))
        expect(totals == expected, f"the totals are wrong: {totals}, not {expected}")
        expect(
            [entry["count"] for entry in counted["top"]] == [times * n for _, n in own.most_common(3)], "top is wrong"
        )
        expect(all(entry["count"] == times * own[entry["word"]] for entry in counted["top"]), "a count is wrong")
        ranking = ", ".join(f"{entry['word']} {entry['count']:,}" for entry in counted["top"])
        note(f"    {counted['words']:,} words, {counted['distinct']} different: {ranking}; an own count agrees")
    expect(call(api, function, "?top=many", query="top=many", body=b"one").status == 500, "top=many was taken")


# Leaving ------------------------------------------------------------------------------------------


def containers_of(node: str) -> int:
    """Count the containers of a node, running or not."""
    client = docker.from_env()
    with contextlib.closing(client):
        return len(client.containers.list(all=True, filters={"label": f"fernd.node={node}"}))


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """Turn a signal into an exception."""
    raise Interrupted


def demo(*, once: bool) -> None:
    """Tell the whole story.

    Raises:
        Wrong: Something is not as it should be.
        Interrupted: Somebody asked us to stop.
    """
    start = time.monotonic()
    prepare()
    step("Starting fernd up")
    fernd, node = Fernd(DATA), ""
    try:
        with timed("dispatcher and agent are up, the node takes work"):
            address = fernd.ready()
        token_file = DATA / "api-token"
        api = Api(address, token_file.read_text().strip())
        node = api.document("GET", "node/list")[0]["hash"]
        note(f"API at {address}/v1, node {node}")
        ids = create_functions(api)
        hello(api, ids["hello"])
        thumbnail(api, ids["thumbnail"])
        wordcount(api, ids["wordcount"])
        step(f"All answers were right, {time.monotonic() - start:.1f} s after the start.")
        if not once:
            farewell(address, token_file)
            fernd.wait()
    finally:
        step("Stopping")
        for number in SIGNALS:
            signal.signal(number, lambda *_: fernd.hurry())
        with timed("fernd up has ended"):
            fernd.stop()
        left = containers_of(node) if node else 0
        expect(left == 0, f"{left} containers of node {node} were left behind")
        note("no container is left behind")


def farewell(address: str, token_file: Path) -> None:
    """Say what can be done now."""
    note(f"fernd up goes on at {address} until Ctrl-C. In another terminal:")
    print()
    note(f"  export FERND_URL={address} FERND_TOKEN=$(cat {token_file.relative_to(ROOT)})")
    note("  .venv/bin/fernd invoke hello -q name=you")
    note("  .venv/bin/fernd invoke thumbnail -b @examples/thumbnail/landscape.jpg -q size=200 >small.png")
    note("  .venv/bin/fernd task list")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Run the examples on real input, and check what they answer.")
    parser.add_argument("--once", action="store_true", help="end when all is shown, instead of at Ctrl-C")
    arguments = parser.parse_args()
    for number in SIGNALS:
        signal.signal(number, interrupt)
    try:
        demo(once=arguments.once)
    except Interrupted:
        return 1 if arguments.once else 0
    except (Wrong, Refused, OSError, DockerException) as problem:
        print(f"\ndemo: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
