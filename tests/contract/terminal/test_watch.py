"""Lists, and `--watch`, on a terminal and off it."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import Any

from agent.protocol import Log
from tests.contract.http_api.api import Api, Node
from tests.contract.terminal.pseudo import SECONDS, Terminal


class Command:
    """A command off any terminal."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._out = b""

    @classmethod
    async def start(cls, environ: dict[str, str], *arguments: str) -> Command:
        return cls(
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "agent.cli", *arguments),
                env=environ,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        )

    async def says(self, words: str) -> None:
        """Wait until it has written these words."""
        assert self._process.stdout is not None
        async with asyncio.timeout(SECONDS):
            while words not in self._out.decode():
                piece = await self._process.stdout.read(4096)
                assert piece, self._out
                self._out += piece

    async def ended(self, *, by_us: bool = False) -> tuple[int, str, str]:
        """Wait for its end; give the exit code, stdout and stderr."""
        if by_us:
            self._process.send_signal(signal.SIGINT)
        async with asyncio.timeout(SECONDS):
            rest, errors = await self._process.communicate()
        return self._process.returncode or 0, (self._out + rest).decode(), errors.decode()


async def run(environ: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    return await (await Command.start(environ, *arguments)).ended()


async def test_a_list_is_watched_in_place(api: Api, node: Node, environ: dict[str, str]) -> None:
    """The table is drawn over the one before, with bars; a new size is drawn at once; Ctrl-C brings the screen back."""
    function = await api.function()
    await api.task(function)
    offer = await node.take()
    async with Terminal("task", "list", "--watch", env=environ, columns=70, rows=6) as terminal:
        await terminal.shows("ID ", offer.lease.task, "░░░░ 0")
        await node.progress(offer.lease, 50)
        await terminal.shows("██████░░░░░░ 50")
        for _ in range(5):
            await api.task(function)
        await terminal.shows("… and 4 more lines")
        terminal.resize(70, 12)
        await terminal.until(lambda: "more lines" not in terminal.text and len(terminal.text.split("\n")) == 9)
        terminal.resize(30, 12)
        await terminal.until(lambda: "…" in terminal.text)
        assert all(len(line) <= 30 for line in terminal.lines)
        terminal.type("\x03")
        assert await terminal.ended() == 130
        assert terminal.wrote.endswith(b"\x1b[?1049l")


async def test_a_watched_list_outlives_the_dispatcher(environ: dict[str, str]) -> None:
    """Whoever watches is told that nobody answers, and goes on watching."""
    async with Terminal("node", "list", "--watch", env=environ | {"FERND_URL": "http://127.0.0.1:1"}) as terminal:
        await terminal.shows("cannot reach http://127.0.0.1:1", "trying again")
        terminal.type("\x03")
        assert await terminal.ended() == 130


async def test_what_is_watched_off_a_terminal_is_news(api: Api, environ: dict[str, str]) -> None:
    """A pipe gets the table once and again when it changed; with --json one document a line."""
    await api.function("one")
    table = await Command.start(environ, "function", "list", "--watch")
    documents = await Command.start(environ, "function", "list", "--watch", "--json")
    await table.says("one")
    await documents.says('"name":"one"')
    await api.function("two")
    await table.says("two")
    await documents.says('"name":"two"')
    code, out, err = await table.ended(by_us=True)
    assert (code, err) == (130, "")
    assert [line.split()[1] for line in out.split("\n") if line] == ["NAME", "one", "NAME", "two", "one"]
    code, out, err = await documents.ended(by_us=True)
    assert (code, err) == (130, "")
    looks: list[Any] = [json.loads(line) for line in out.splitlines()]
    assert [[found["name"] for found in look] for look in looks] == [["one"], ["two", "one"]]


async def test_tables_off_a_terminal_are_plain(api: Api, node: Node, environ: dict[str, str]) -> None:
    """No colour, no bar, no cut: the same bytes each time, whatever the width of the window."""
    offered = await api.task(await api.function("a-name-that-is-long" * 3))
    lease = (await node.take()).lease
    await node.progress(lease, 50)
    while (await api("GET", f"/v1/task/{offered}")).json()["progress"] != 50:
        await asyncio.sleep(0.02)
    narrow = environ | {"COLUMNS": "20", "TERM": "xterm-256color"}
    code, out, err = await run(narrow, "task", "list")
    assert (code, err) == (0, "")
    heading, line = out.splitlines()
    assert heading.split() == ["ID", "ISSUED", "PROGRESS", "STATUS"]
    assert line.split()[0] == offered
    assert line.split()[-2:] == ["50", "0"]
    assert "\x1b" not in out
    _, out, _ = await run(narrow, "function", "list")
    assert "a-name-that-is-long" * 3 in out


async def test_a_log_is_followed(api: Api, node: Node, environ: dict[str, str]) -> None:
    """Lines come as they are written, with their stream in JSON; a finished task's log is just printed."""
    task_id = await api.task(await api.function())
    lease = (await node.take()).lease
    await node.wrote(lease, ("stdout", b"one"))
    plain = await Command.start(environ, "task", "logs", "--follow", task_id)
    as_json = await Command.start(environ, "task", "logs", "-f", "--json", task_id)
    await plain.says("one\n")
    await as_json.says("one")
    await node.wrote(lease, ("stderr", b"two \x1b[1m"), sequence=2)
    await node.finish(lease, status=200, log=Log(b"whole log\n"))
    assert await plain.ended() == (0, "one\ntwo \x1b[1m\n", "")
    _, out, _ = await as_json.ended()
    assert [json.loads(line) for line in out.splitlines()] == [
        {"id": task_id, "stream": "stdout", "line": "one"},
        {"id": task_id, "stream": "stderr", "line": "two \x1b[1m"},
    ]
    code, out, _ = await run(environ, "task", "logs", "--follow", task_id)
    assert (code, out) == (0, "whole log\n")


async def test_a_shell_completes_names(api: Api, environ: dict[str, str]) -> None:
    """Names of functions and ids of tasks come from the dispatcher; one that is not there costs no error."""
    one = await api.task(await api.function("thumbnail"))
    await api.function("wordcount")
    asked = environ | {"_FERND_COMPLETE": "bash_complete", "COMP_CWORD": "2"}
    code = "from agent.cli.main import fernd; fernd(prog_name='fernd')"
    for url, words, expected in (
        (api.url, "fernd invoke t", "plain,thumbnail\n"),
        (api.url, "fernd invoke ", "plain,wordcount\nplain,thumbnail\n"),
        (api.url, "fernd task show ", f"plain,{one}\n"),
        ("http://127.0.0.1:1", "fernd invoke ", "\n"),
    ):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", code),
            env=asked | {"FERND_URL": url, "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(SECONDS):
            out, errors = await process.communicate()
        assert (out.decode(), errors) == (expected, b"")
