"""The dashboard as its users have it: a real browser, on a dispatcher and an agent that run a real function.

Pictures of what was seen are left in ``var/dashboard``.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.browser import CHROMIUM, Page, browser
from tests.e2e.up import Up
from tests.images import built, reference

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(120),
    pytest.mark.skipif(shutil.which(CHROMIUM) is None, reason="Chromium is not installed: see make test-tools"),
]

AXE = Path(".cache/axe/axe_playwright_python/axe.min.js")
PICTURES = Path("var/dashboard")
IMAGE = reference("dashboard")

STEPS = """
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer

class Steps(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)))
        for step in range(1, asked["steps"] + 1):
            print(f"step {step} of {asked['steps']} <b>is done</b>", file=sys.stderr)
            print(f"::progress::{100 * step // asked['steps']} step {step}", file=sys.stderr)
            time.sleep(asked["pause"])
        body = json.dumps({"done": asked["steps"], "markup": "<script>alert(1)</script>"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

HTTPServer(("", int(os.environ["PORT"])), Steps).serve_forever()
"""

LOOKS = {"light": (1280, 900, "light"), "dark": (1280, 900, "dark"), "narrow": (390, 844, "light")}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    PICTURES.mkdir(parents=True, exist_ok=True)
    with built("dashboard", "steps.py", STEPS):
        up = Up(tmp_path_factory.mktemp("up") / "d")
        yield up
        assert up.stop() == 0


@pytest.fixture
async def api(up: Up) -> AsyncIterator[aiohttp.ClientSession]:
    token = up.environ["FERND_TOKEN"]
    async with aiohttp.ClientSession(up.url, headers={"Authorization": f"Bearer {token}"}) as session:
        yield session


@pytest.fixture
async def page(up: Up, api: aiohttp.ClientSession) -> AsyncIterator[Page]:
    """A browser that is logged in, on a dispatcher with the function `steps`."""
    function = {"name": "steps", "type": "DOCKER", "image": IMAGE, "description": "Counts to a number"}
    async with api.post("/v1/function", json=function) as answer:
        assert answer.status in (201, 409)
        if answer.status == 201:
            function_id = (await answer.json())["id"]
            asked = {"timeout": 60, "memSize": 64, "cpuCount": 0.1}
            async with api.post(f"/v1/function/{function_id}/capabilities", json=asked) as done:
                assert done.status == 204
    async with browser() as page:
        await page.look(width=1280, height=900)
        await page.go(f"{up.url}/")
        await page.sees("h1", "Log in")
        await picture(page, "log-in")
        await page.write(up.environ["FERND_TOKEN"])
        await page.press("Enter", code=13, text="\r")
        await page.sees(".link-state", "Live")
        yield page
        assert page.complaints == []
        elsewhere = await page.run(f"""performance.getEntriesByType("resource").map((one) => one.name)
            .filter((name) => !name.startsWith({json.dumps(up.url)}))""")
        assert elsewhere == []


async def test_why_a_node_takes_no_work(up: Up, page: Page) -> None:
    """What the owner of a machine does there is told in the list of nodes, as it happens."""

    async def agent(command: str) -> None:
        arguments = ["-m", "agent.cli", "agent", command, "--data-dir", str(up.directory / "agent")]
        process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.DEVNULL)
        assert await process.wait() == 0

    await page.click(".tabs a", "Nodes")
    await page.sees("td .state", "Available")
    await agent("pause")
    try:
        await page.sees("td", "paused on the machine itself")
    finally:
        await agent("resume")
    await page.sees("td .state", "Available")


async def test_a_task_from_start_to_answer(page: Page) -> None:
    """A node is seen, a task is started, its bar moves, its log and answer are read; another one is cancelled."""
    await page.click(".tabs a", "Nodes")
    await page.sees("td .state", "Available")
    await check(page, "nodes")
    await page.click("td a.row")
    await page.sees("h2", "Machine")
    await check(page, "node")

    await start(page, '{"steps": 20, "pause": 0.1}')
    await page.run("""
        globalThis.seen = [];
        setInterval(() => {
          const bar = document.querySelector(".progress.big [role=progressbar]");
          if (bar !== null) seen.push(Number(bar.getAttribute("aria-valuenow")));
        }, 20);""")
    await page.sees(".log", "step 2 of 20 <b>is done</b>")
    await check(page, "task-running", audit=False)
    await page.sees(".state.ok", "Answered 200")
    await page.sees(".log", '"done": 20')
    seen = await page.run("[...new Set(seen)]")
    assert seen == sorted(seen)
    assert len(seen) > 5, "the bar did not move"
    assert seen[-1] == 100
    assert await page.run('document.querySelectorAll(".log b, .log script").length') == 0
    legend = await page.run(
        '[...document.querySelectorAll(".legend li")].map((part) => part.innerText.split("\\n")[0])'
    )
    assert {"Start", "Run"} <= set(legend)
    await check(page, "task-ended")

    await start(page, '{"steps": 200, "pause": 0.2}')
    await page.sees(".state.run", "Running")
    await page.click("button.danger", "Cancel task")
    await page.sees("dialog h2", "Cancel this task?")
    await picture(page, "cancel")
    await page.click("dialog button", "Cancel task")
    await page.sees(".state.gone", "Cancelled")
    await page.until("document.querySelector('dialog') === null")

    await page.click(".tabs a", "Tasks")
    await page.sees("td .state.gone", "Cancelled")
    await check(page, "tasks")
    await page.click(".chips button", "Finished")
    await page.until("document.querySelectorAll('tbody tr').length === 1")
    assert await page.run("location.hash") == "#/tasks?state=finished"

    await page.click(".tabs a", "Functions")
    await page.sees("td", "ms / ")
    await check(page, "functions")
    await page.click("td a.row", "steps")
    await page.sees("h2", "Time by phase")
    await check(page, "function")
    await page.click(".tabs a", "Overview")
    await page.sees(".tile", "1 / 1")
    await check(page, "overview")


async def test_tokens_are_made_and_revoked(page: Page, api: aiohttp.ClientSession) -> None:
    """A token is shown once and is good; when it is revoked it is good no more."""
    await page.click(".tabs a", "Tokens")
    await page.sees("td .under", "logged in with this one")
    await page.click(".head button", "Make a token")
    await page.sees("dialog h2", "Make a token")
    await page.write("laptop")
    await check(page, "make-token")
    await page.press("Enter", code=13, text="\r")
    await page.sees("dialog h2", "This is the token")
    token = await page.run('document.querySelector("dialog .secret code").textContent')
    theirs = {"Authorization": f"Bearer {token}"}
    async with api.get("/v1/task/list", headers=theirs) as answer:
        assert answer.status == 200
    async with api.get("/v1/node/list", headers=theirs) as answer:
        assert answer.status == 403
    await page.press("Escape", code=27)
    await page.sees("td", "laptop")
    await check(page, "tokens")
    await page.click('button[aria-label="Revoke laptop"]')
    await page.click("dialog button", "Revoke")
    await page.until('![...document.querySelectorAll("td")].some((cell) => cell.innerText === "laptop")')
    async with api.get("/v1/task/list", headers=theirs) as answer:
        assert answer.status == 401


async def test_the_keyboard_is_enough(page: Page) -> None:
    """From the first Tab, which skips to the content, over a dialog that keeps the focus, to the log-out."""
    await page.until("document.activeElement.innerText === 'Overview'")  # what is new is read out
    await page.click(".tabs a", "Nodes")
    await page.until("document.activeElement.innerText === 'Nodes'")
    await page.run("globalThis.before = true")
    await page.command("Page.reload")  # the session is still there
    await page.until("globalThis.before === undefined && document.querySelector('td .state') !== null")
    await page.press("Tab", code=9)
    assert await page.run("document.activeElement.innerText") == "Skip to the content"
    await page.run('[...document.querySelectorAll(".top button")].find((b) => b.innerText === "Start a task").focus()')
    await page.press("Enter", code=13, text="\r")
    await page.sees("dialog h2", "Start a task")
    await check(page, "start-task")
    for _ in range(8):
        await page.press("Tab", code=9)
        assert await page.run('document.activeElement === document.body || !!document.activeElement.closest("dialog")')
    await page.press("Escape", code=27)
    await page.until("document.activeElement.innerText === 'Start a task'")
    await page.press("Tab", code=9)
    assert await page.run("document.activeElement.innerText") == "Log out"
    await page.press("Enter", code=13, text="\r")
    await page.sees("h1", "Log in")
    assert await page.run('fetch("/v1/session").then((answer) => answer.status)') == 401
    page.complaints.clear()  # a browser notes that answer, which was asked for here


async def test_what_was_missed_is_made_up_for(up: Up, page: Page, api: aiohttp.ClientSession) -> None:
    """While the connection is broken the page says so; afterwards it shows what happened meanwhile."""
    line = Line(up.url)
    await line.open()
    await page.go(f"http://127.0.0.1:{line.port}/#/tasks")
    await page.until(f"location.port === '{line.port}' && document.querySelector('#token, td .state') !== null")
    if await page.run("document.querySelector('#token') !== null"):  # cookies know no ports, what the page notes does
        await page.write(up.environ["FERND_TOKEN"])
        await page.press("Enter", code=13, text="\r")
    await page.sees(".link-state", "Live")
    await page.sees("main h1", "Tasks")
    line.cut()
    await page.sees(".link-state", "Reconnecting")
    async with api.get("/v1/function/list?name=steps") as answer:
        (function,) = await answer.json()
    async with api.post(f"/v1/task/{function['id']}", json={"steps": 1, "pause": 0}) as answer:
        task_id = (await answer.json())["id"]
    await line.open()
    await page.until(f"document.querySelector('a[href=\"#/tasks/{task_id}\"]') !== null")
    await page.sees(".link-state", "Live")
    page.complaints.clear()  # a browser complains of requests that could not be made
    await page.go(f"{up.url}/")
    line.cut()


class Line:
    """The way from a browser to a dispatcher, which can be cut."""

    def __init__(self, url: str) -> None:
        self.port = 0
        self._target = int(url.rpartition(":")[2])
        self._ends: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        assert self._server is not None
        self._server.close()
        for end in self._ends:
            end.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        self._ends |= {writer, back}
        await asyncio.gather(_pour(reader, back), _pour(there, writer))
        self._ends -= {writer, back}


async def _pour(source: asyncio.StreamReader, into: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while content := await source.read(65_536):
            into.write(content)
            await into.drain()
    into.close()


async def start(page: Page, content: str) -> None:
    """Start a task of the function `steps` by the dialog."""
    await page.click(".top button", "Start a task")
    await page.choose("#start-function", "steps")
    await page.click("#start-body")
    await page.write(content)
    await page.click("dialog button.primary", "Start")
    await page.until('location.hash.startsWith("#/tasks/") && document.querySelector("dialog") === null')


async def check(page: Page, name: str, *, audit: bool = True) -> None:
    """Keep pictures of what is seen, and let axe-core look at it by day, by night and on a phone."""
    for look, (width, height, scheme) in LOOKS.items():
        await page.look(width=width, height=height, scheme=scheme)
        await picture(page, f"{name}-{look}")
        assert await page.run("document.documentElement.scrollWidth <= innerWidth"), f"{name} is too wide: {look}"
        if audit:
            assert await serious(page) == [], f"{name}, {look}"
    await page.look(width=1280, height=900)


async def picture(page: Page, name: str) -> None:
    await page.picture(PICTURES / f"{name}.png")


async def serious(page: Page) -> list[Any]:
    """Give what axe-core finds that is serious or worse."""
    if not await page.run("'axe' in globalThis"):
        await page.run(await asyncio.to_thread(AXE.read_text, "utf-8"))
    found: list[
        Any
    ] = await page.run("""axe.run(document, {resultTypes: ["violations"]}).then(({violations}) => violations
        .filter((one) => ["serious", "critical"].includes(one.impact))
        .map((one) => [one.id, one.nodes.map((node) => [node.html, node.failureSummary])]))""")
    return found
