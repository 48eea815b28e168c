"""What runs under chaos: functions whose answers can be checked, and the ledger of what the dispatcher accepted."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import random
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp

from tests.images import reference

IMAGE = reference("chaos")
RETRIES = 9
"""Of functions that may run again: more than any scenario takes away."""

FUNCTION = r'''
import hashlib, json, os, sys, time, uuid
from http.server import BaseHTTPRequestHandler, HTTPServer

def work(asked, task, attempt):
    """Say that it runs, take the time that was asked for, and answer what only this input has."""
    nonce = uuid.uuid4().hex
    line = f"ran {task} {attempt} {nonce}\n"
    with open("/tmp/ran", "a") as noted:  # where nobody may hear it, see witness.py
        noted.write(line)
    sys.stderr.write(line)  # one write, so that it is one piece of the stream
    time.sleep(asked["seconds"] / 2)
    print("::progress::50", file=sys.stderr, flush=True)
    time.sleep(asked["seconds"] / 2)
    answer = hashlib.sha256(asked["text"].encode()).hexdigest()
    padding = (answer * (1 + asked["size"] // len(answer)))[:asked["size"]]
    return json.dumps({"answer": answer, "task": task, "nonce": nonce, "padding": padding}).encode()

class Function(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = work(asked, self.headers["X-Task-Id"], self.headers["X-Attempt"])
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

if "TASK_ID" in os.environ:
    sys.stdout.buffer.write(work(json.load(sys.stdin), os.environ["TASK_ID"], 0))
else:
    HTTPServer(("", int(os.environ["PORT"])), Function).serve_forever()
'''

Kind = Literal["http", "http_once", "job", "job_once"]
KINDS: tuple[Kind, ...] = ("http", "http_once", "job", "job_once")
"""How a function runs, and whether it may run a second time."""


@dataclass
class Entry:
    """A task that was answered 201.

    Attributes:
        silent: Its function is not ours, and answers nothing.
        cancelled: Its owner cancelled it before it had ended.
        first: Status and answer as they were when the task was first seen finished.
    """

    id: str
    kind: Kind
    text: str
    size: int
    silent: bool = False
    cancelled: bool = False
    first: tuple[int, Any] | None = None

    @property
    def runs_once(self) -> bool:
        """It must never run a second time."""
        return self.kind.endswith("_once")

    def is_right(self, answer: Any) -> bool:
        """Say whether an answer is what the function makes of this input."""
        if self.silent:
            return answer is None
        expected = hashlib.sha256(self.text.encode()).hexdigest()
        padding = (expected * (1 + self.size // len(expected)))[: self.size]
        told = answer if isinstance(answer, dict) else {}
        return (told.get("answer"), told.get("task"), told.get("padding")) == (expected, self.id, padding)


@dataclass
class Client:
    """An honest caller: asks again, with the same key, until it is answered."""

    url: str
    token: str
    rng: random.Random
    http: aiohttp.ClientSession
    ledger: list[Entry] = field(default_factory=list)
    functions: dict[Kind, str] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    async def ask(
        self, method: str, path: str, seconds: float = 120.0, **request: Any
    ) -> tuple[int, Any, aiohttp.ClientResponse]:
        """Make a request, again where the dispatcher is away or says that it is not able to."""
        headers = {"Authorization": self.token, **request.pop("headers", {})}
        async with asyncio.timeout(seconds):
            while True:
                try:
                    async with self.http.request(method, self.url + path, headers=headers, **request) as response:
                        content = await response.read()
                        document = json.loads(content) if content else None
                        if response.status != 429 and (response.status != 503 or "X-Task-Id" in response.headers):
                            return response.status, document, response
                except (aiohttp.ClientError, ConnectionError):
                    pass
                await asyncio.sleep(0.05)  # the pause of a caller whose dispatcher is away

    async def create_functions(self) -> None:
        """Make one function of each kind."""
        for kind in KINDS:
            self.functions[kind] = await self.create_function(kind)

    async def create_function(self, kind: Kind, image: str = IMAGE) -> str:
        """Make a function that takes little, so that many fit on a small machine."""
        function = {
            "name": f"{kind}-{next(self._numbers)}",
            "type": "DOCKER",
            "image": image,
            "mode": "job" if kind.startswith("job") else "http",
            "retries": 0 if kind.endswith("_once") else RETRIES,
        }
        status, made, _ = await self.ask("POST", "/v1/function", json=function)
        assert status == 201, made
        needs = {"timeout": 120, "cpuCount": 0.25, "memSize": 64}
        status, said, _ = await self.ask("POST", f"/v1/function/{made['id']}/capabilities", json=needs)
        assert status == 204, said
        return str(made["id"])

    async def submit(
        self, kind: Kind = "http", seconds: float = 0.2, size: int = 0, silent_function: str | None = None
    ) -> Entry:
        """Create a task and enter it into the ledger."""
        number = next(self._numbers)
        text = f"{number} {self.rng.getrandbits(64):x}"
        status, created, _ = await self.ask(
            "POST",
            f"/v1/task/{silent_function or self.functions[kind]}",
            json={"text": text, "seconds": seconds, "size": size},
            headers={"Idempotency-Key": f"chaos-{number}"},
        )
        assert status == 201, created
        entry = Entry(created["id"], kind, text, size, silent=silent_function is not None)
        self.ledger.append(entry)
        return entry

    async def submit_some(self, count: int, seconds: float = 0.3) -> list[Entry]:
        """Create tasks of all kinds, some of them with an answer too large for a message."""
        return [
            await self.submit(
                self.rng.choice(KINDS),
                seconds * self.rng.uniform(0.2, 2),
                self.rng.choice([0, 0, 0, 1000, 400_000]),
            )
            for _ in range(count)
        ]

    async def cancel(self, entry: Entry) -> bool:
        """Cancel a task, unless it has ended; say whether it was cancelled."""
        status, said, _ = await self.ask("DELETE", f"/v1/task/{entry.id}")
        assert status in {204, 409}, said
        # A dispatcher that died after its commit answers the second time that the task has ended.
        entry.cancelled = status == 204 or (await self.task(entry))["state"] == "cancelled"
        return entry.cancelled

    async def log(self, entry: Entry) -> bytes:
        """Give the log of a task that has ended."""
        async with self.http.get(f"{self.url}/v1/task/{entry.id}/logs", headers={"Authorization": self.token}) as got:
            assert got.status == 200
            return await got.read()

    async def task(self, entry: Entry) -> dict[str, Any]:
        """Give a task as the dispatcher shows it."""
        status, task, _ = await self.ask("GET", f"/v1/task/{entry.id}")
        assert status == 200, task
        return dict(task)

    async def until_state(self, state: str, *entries: Entry) -> None:
        """Wait until tasks are in a state."""
        async with asyncio.timeout(30):
            for entry in entries:
                while (await self.task(entry))["state"] != state:
                    await asyncio.sleep(0.02)  # asked, since the events of a dispatcher end with it

    async def result(self, entry: Entry, seconds: float = 150.0) -> tuple[int, Any]:
        """Wait for the end of a task, and give its status and answer."""
        async with asyncio.timeout(seconds):
            while True:
                status, answer, response = await self.ask(
                    "GET", f"/v1/task/{entry.id}/result", seconds, headers={"Prefer": "wait=5"}
                )
                if "X-Task-State" in response.headers:
                    entry.first = entry.first or (status, answer)
                    return status, answer

    async def all_results(self, seconds: float = 150.0) -> None:
        """Wait for the end of every task of the ledger."""
        await asyncio.gather(*(self.result(entry, seconds) for entry in self.ledger))
