"""A real browser without a screen, driven over its DevTools protocol: clicked and typed into as by a person."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = "chromium"
SECONDS = 20.0
"""Whatever is waited for is there within so long, on a slow machine too."""

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)

SHOWN = """
(selector, text) => [...document.querySelectorAll(selector)].find(
  (found) => found.checkVisibility({visibilityProperty: true}) && (text === null || found.innerText.includes(text)))
"""
"""Finds an element that can be seen, by selector and by what it says."""


class PageError(Exception):
    """A script of a test went wrong in the page."""


class Page:
    """One page, with all that it complained about."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self._ws = ws
        self._numbers = count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._session: str | None = None
        self.complaints: list[str] = []
        """Errors in the console, exceptions, and requests that the page's policy refused."""

    async def read(self) -> None:
        """Take what the browser says, until it ends."""
        async for frame in self._ws:
            said = json.loads(frame.data)
            if "id" in said:
                answer = self._answers.pop(said["id"], None)
                if answer is not None and not answer.done():
                    answer.set_result(said)
            else:
                self._note(said.get("method", ""), said.get("params", {}))

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in {"error", "assert", "warning"}:
            self.complaints.append(" ".join(str(part.get("value", part.get("description"))) for part in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    async def command(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask the browser for something, and give its answer."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        await self._ws.send_json(message)
        async with asyncio.timeout(SECONDS):
            said = await answer
        if "error" in said:
            raise PageError(f"{method}: {said['error']['message']}")
        found: dict[str, Any] = said["result"]
        return found

    async def begin(self) -> None:
        """Open an empty page and listen to its complaints."""
        target = await self.command("Target.createTarget", url="about:blank")
        attached = await self.command("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            await self.command(f"{domain}.enable")

    async def go(self, url: str) -> None:
        await self.command("Page.navigate", url=url)

    async def run(self, script: str) -> Any:
        """Run a script in the page and give its value, which is awaited where it is a promise."""
        done = await self.command("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in done:
            details = done["exceptionDetails"]
            raise PageError(details.get("exception", {}).get("description", details["text"]))
        return done["result"].get("value")

    async def until(self, script: str) -> Any:
        """Wait until a script gives something true. It is tried at every frame, in the page."""
        waiting = f"""new Promise((resolve, reject) => {{
          const started = performance.now();
          const look = () => {{
            const found = ({script});
            if (found) resolve(found);
            else if (performance.now() - started > {SECONDS * 900}) reject(new Error({json.dumps(script)}));
            else setTimeout(look, 15);
          }};
          look();
        }})"""
        try:
            return await self.run(waiting)
        except PageError as error:
            seen = await self.run("document.body.innerText.slice(0, 2000)")
            raise PageError(
                f"this was waited for in vain: {error}\ncomplaints: {self.complaints}\npage: {seen}"
            ) from None

    async def sees(self, selector: str, text: str | None = None) -> None:
        """Wait until an element can be seen."""
        await self.until(f"!!({SHOWN})({json.dumps(selector)}, {json.dumps(text)})")

    async def click(self, selector: str, text: str | None = None) -> None:
        """Click into the middle of an element, when it can be seen and does not move."""
        await self.sees(selector, text)
        x, y = await self.until(f"""(() => {{
          const found = ({SHOWN})({json.dumps(selector)}, {json.dumps(text)});
          if (!found) return null;
          found.scrollIntoView({{block: "center", behavior: "instant"}});
          const box = found.getBoundingClientRect();
          const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
          const hit = document.elementFromPoint(x, y);
          return hit !== null && (found.contains(hit) || hit.contains(found)) ? [x, y] : null;
        }})()""")
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            pressed: dict[str, Any] = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
            await self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, **pressed)

    async def write(self, text: str) -> None:
        """Type text into what has the focus."""
        await self.command("Input.insertText", text=text)

    async def press(self, key: str, *, code: int, text: str | None = None, shift: bool = False) -> None:
        """Press a key and let it go."""
        what: dict[str, Any] = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        down = what | ({"text": text} if text is not None else {})
        await self.command("Input.dispatchKeyEvent", type="keyDown", **down)
        await self.command("Input.dispatchKeyEvent", type="keyUp", **what)

    async def choose(self, selector: str, text: str) -> None:
        """Choose an option of a list by what it says, as the keyboard does."""
        option = (
            f"[...document.querySelector({json.dumps(selector)}).options].find((o) => o.text === {json.dumps(text)})"
        )
        await self.until(f"!!{option}")
        await self.run(f"""(() => {{
          const list = document.querySelector({json.dumps(selector)});
          list.value = ({option}).value;
          list.dispatchEvent(new Event("change", {{bubbles: true}}));
        }})()""")

    async def look(self, *, width: int, height: int, scheme: str = "light") -> None:
        """Be a screen of a size, by day or by night."""
        await self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        await self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def picture(self, file: Path, *, whole: bool = False) -> None:
        """Keep a picture of what is seen."""
        # Two frames: one for what changed last, one that is painted with it.
        await self.run("new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)))")
        taken = await self.command("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        await asyncio.to_thread(file.write_bytes, base64.b64decode(taken["data"]))


@asynccontextmanager
async def browser() -> AsyncIterator[Page]:
    """Start a browser of its own, with nothing kept from before, and give its page."""
    home = tempfile.mkdtemp(prefix="fernd-browser-")
    process = await asyncio.create_subprocess_exec(
        CHROMIUM, *FLAGS, f"--user-data-dir={home}", "about:blank",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        address, drained = await _address(process)
        async with aiohttp.ClientSession() as http, http.ws_connect(address, max_msg_size=0) as ws:
            page = Page(ws)
            reading = asyncio.create_task(page.read())
            await page.begin()
            yield page
            with suppress(ConnectionError, TimeoutError):
                await page.command("Browser.close")
            reading.cancel()
        drained.cancel()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
        await process.wait()
        shutil.rmtree(home, ignore_errors=True)


async def _address(process: asyncio.subprocess.Process) -> tuple[str, asyncio.Task[None]]:
    """Wait for the address at which the browser can be driven, and then read on what it grumbles."""
    assert process.stderr is not None
    errors = process.stderr
    async with asyncio.timeout(SECONDS):
        async for line in errors:
            if line.startswith(b"DevTools listening on "):
                return line.decode().split()[-1], asyncio.create_task(_drain(errors))
    raise PageError("the browser did not start")


async def _drain(errors: asyncio.StreamReader) -> None:
    async for _ in errors:
        pass
