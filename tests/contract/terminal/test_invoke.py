"""`fernd invoke` on a terminal, as somebody sees it."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

from tests.contract.http_api.api import Api, Node
from tests.contract.terminal.pseudo import Terminal

WITHOUT_RICH = "import sys; sys.modules['rich'] = None"


async def test_bars_move_above_the_answer(api: Api, node: Node, environ: dict[str, str]) -> None:
    """Phase, bytes of the image, progress and its message in place; log lines dimmed above; then JSON to be read."""
    await api.function("thumbnail")
    async with Terminal("invoke", "thumbnail", env=environ) as terminal:
        lease = (await node.take()).lease
        await terminal.shows(f"is accepted on {node.id}")
        await node.pulled(lease, 12_000_000, 48_000_000)
        await terminal.shows("pulls the image", "12.0 MB of 48.0 MB")
        quarter = _filled(terminal, "image")
        await node.pulled(lease, 36_000_000, 48_000_000, sequence=2)
        await terminal.shows("36.0 MB of 48.0 MB")
        assert _filled(terminal, "image") > quarter > 0
        await node.progress(lease, 40, sequence=3, message="resizes")
        await terminal.shows(f"runs on {node.id}", " 40 % resizes")
        assert "image" not in terminal.text
        two_fifths = _filled(terminal, "progress")
        await node.wrote(lease, ("stdout", b"opened \x1b[2Jphoto.jpg"), ("stderr", b"a warning"))
        await terminal.shows("opened  [2Jphoto.jpg", "a warning")
        assert terminal.is_dim("a warning")
        text = terminal.text
        assert text.index("a warning") < text.index("runs on")
        await node.progress(lease, 80, sequence=4, message="writes")
        await terminal.shows(" 80 % writes")
        assert _filled(terminal, "progress") > two_fifths
        await node.finish(lease, status=200, headers=[("Content-Type", "application/json")], body=b'{"a":[1,{"b":2}]}')
        assert await terminal.ended() == 0
        text = terminal.text
    assert " 80 % writes" not in text, "the bars are gone"
    before, _, answer = text.partition("\n{")
    assert re.search(r"opened  \[2Jphoto.jpg\na warning\ntask [0-9a-f]{24}  [0-9.]+ s$", before)
    assert json.loads("{" + answer) == {"a": [1, {"b": 2}]}
    assert '\n  "a": [\n    1,' in "\n{" + answer


async def test_a_smaller_window_stays_in_order(api: Api, node: Node, environ: dict[str, str]) -> None:
    """After a change of size the bars are drawn within the new one, each still on a line of its own."""
    await api.function("thumbnail")
    async with Terminal("invoke", "thumbnail", env=environ) as terminal:
        lease = (await node.take()).lease
        await node.progress(
            lease, 40, message="a message that is much too long for a small window, and is cut off there"
        )
        await terminal.shows("runs on", " 40 % a message that is much too long")
        terminal.resize(40, 24)
        await node.progress(lease, 60, sequence=2, message="a message that is much too long, still")
        await terminal.until(lambda: any(" 60 % a mess" in line for line in terminal.lines))
        (bar,) = [line for line in terminal.lines if " 60 % a mess" in line]
        assert bar.startswith("progress ")
        assert len(bar) <= 40
        await node.finish(lease, status=200, body=b"done")
        assert await terminal.ended() == 0
        assert terminal.text.endswith("\ndone")


async def test_ctrl_c_asks_to_cancel(api: Api, node: Node, environ: dict[str, str]) -> None:
    """The task is cancelled, the bars are gone, and the exit code is the one that shells expect."""
    await api.function("thumbnail")
    async with Terminal("invoke", "thumbnail", env=environ) as terminal:
        lease = (await node.take()).lease
        await node.progress(lease, 40)
        await terminal.shows(" 40 %")
        terminal.type("\x03")
        assert await terminal.ended() == 130
        assert f"cancelled task {lease.task}" in terminal.text
        assert " 40 %" not in terminal.text
        assert "Traceback" not in terminal.text
    assert (await api("GET", f"/v1/task/{lease.task}")).json()["state"] == "cancelled"


async def test_a_second_ctrl_c_leaves_at_once(environ: dict[str, str]) -> None:
    """Nobody waits for a dispatcher that does not answer the first one."""
    answers = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 35\r\n\r\n"
        b'[{"id":"6405942c9956fae80d7e0e91"}]'
    )
    created = b'HTTP/1.1 201 Created\r\nContent-Length: 33\r\n\r\n{"id":"6405942c9956fae80d7e0e92"}'

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := (await reader.readuntil(b"\r\n\r\n")):
            if head.startswith(b"GET /v1/function"):
                writer.write(answers)
            elif head.startswith(b"POST"):
                writer.write(created)
            elif head.startswith(b"DELETE"):
                asked.set()
            await writer.drain()

    asked = asyncio.Event()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with Terminal("invoke", "thumbnail", env=environ | {"FERND_URL": url}) as terminal:
            await terminal.shows("waits for a node")
            terminal.type("\x03")
            await terminal.shows("cancelling the task; Ctrl-C once more leaves at once")
            terminal.type("\x03")
            begun = asyncio.get_running_loop().time()
            assert await terminal.ended() == 130
            assert asyncio.get_running_loop().time() - begun < 3
            assert "Traceback" not in terminal.text


async def test_bytes_are_for_files_and_pipes(api: Api, node: Node, environ: dict[str, str]) -> None:
    """Bars are on the terminal while the answer goes, byte for byte, into a pipe; a terminal is spared them."""
    await api.function("thumbnail")
    content = b"\x89PNG\r\n\x1a\n\0\xff"
    async with Terminal("invoke", "thumbnail", env=environ, piped=True) as terminal:
        lease = (await node.take()).lease
        await node.progress(lease, 40, message="half way")
        await terminal.shows(" 40 % half way")
        await node.finish(lease, status=200, headers=[("Content-Type", "image/png")], body=content)
        assert await terminal.ended() == 0
    assert terminal.stdout == content
    async with Terminal("task", "result", lease.task, env=environ) as terminal:
        assert await terminal.ended() == 0
        assert "".join(terminal.lines) == (
            f"10 bytes of image/png, which a terminal cannot show: fernd task result {lease.task} > FILE"
        )


async def test_colours_can_be_had_without(api: Api, node: Node, environ: dict[str, str]) -> None:
    """NO_COLOR leaves the bars and takes the colours; a dumb terminal gets the plain lines."""
    await api.function("thumbnail")
    async with Terminal("invoke", "thumbnail", env=environ | {"NO_COLOR": "1"}) as terminal:
        await node.run(headers=[("Content-Type", "application/json")], body=b"[1]")
        assert await terminal.ended() == 0
        assert not re.search(rb"\x1b\[[0-9;]*3[0-9][;m]", terminal.wrote)
    async with Terminal("invoke", "thumbnail", env=environ | {"TERM": "dumb"}) as terminal:
        offer = await node.run(headers=[("Content-Type", "application/json")], body=b"[1]")
        assert await terminal.ended() == 0
        assert terminal.lines[0] == f"task {offer.lease.task}"
        assert terminal.text.endswith("[\n  1\n]")
        assert b"\x1b" not in terminal.wrote


async def test_without_rich_there_are_lines(api: Api, node: Node, environ: dict[str, str], tmp_path: Path) -> None:
    """Where the extra `cli` is not installed, a terminal gets the same lines as a pipe."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_RICH)
    await api.function("thumbnail")
    async with Terminal("invoke", "thumbnail", env=environ | {"PYTHONPATH": str(tmp_path)}) as terminal:
        lease = (await node.take()).lease
        await node.progress(lease, 40, message="half way")
        await terminal.shows(" 40 % half way")
        await node.finish(lease, status=200, body=b'{"a":1}')
        assert await terminal.ended() == 0
        assert f"accepted by {node.id}" in terminal.lines
        assert terminal.text.endswith('{\n  "a": 1\n}')
        assert b"\x1b" not in terminal.wrote


def _filled(terminal: Terminal, name: str) -> int:
    """Count the filled cells of a bar: those in another colour than its rest, which begins after them."""
    for number, line in enumerate(terminal.lines):
        if line.startswith(name):
            cells = terminal.cells(number)
            colours = [colour for character, colour in cells if character in "━╸╺"]
            return sum(colour == colours[0] for colour in colours)
    raise AssertionError(f"no bar {name}")
