"""``fernd agent join`` against a real HTTP server: what is kept, and how it fails."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

NOWHERE = "http://127.0.0.1:1"


class Ended(NamedTuple):
    code: int | None
    out: str
    err: str


class Dispatcher:
    """Joins nodes to whoever shows the token."""

    def __init__(self) -> None:
        self.url = ""
        self.joined: list[tuple[str, object]] = []

    async def join(self, request: web.Request) -> web.Response:
        if request.headers["Authorization"] != "Bearer good":
            problem = {"title": "Unauthenticated", "status": 401, "code": "UNAUTHENTICATED", "detail": "token expired"}
            return web.json_response(problem, status=401, content_type="application/problem+json")
        self.joined.append((request.match_info["id"], await request.json()))
        return web.json_response({"credential": f"secret-{len(self.joined)}"}, status=201)


@pytest.fixture
async def dispatcher() -> AsyncIterator[Dispatcher]:
    made = Dispatcher()
    app = web.Application()
    app.router.add_post("/v1/node/{id}", made.join)
    server = TestServer(app)
    await server.start_server()
    made.url = str(server.make_url("")).rstrip("/")
    yield made
    await server.close()


async def fernd(*arguments: str, **environ: str) -> Ended:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FERND_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "agent.cli",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=inherited | environ,
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    return Ended(process.returncode, out.decode(), err.decode())


async def test_a_node_joins_and_joins_again_as_the_same_node(dispatcher: Dispatcher, tmp_path: Path) -> None:
    """The first dispatcher that answers is asked; the id stays, the credential is the newest and is never printed.

    A node that nobody describes has its machine's name.
    """
    arguments = ("agent", "join", f"{NOWHERE},{dispatcher.url}/", "--token", "good", "--data-dir", str(tmp_path))
    first = await fernd(*arguments, "--json", FERND_NODE_DESCRIPTION="a laptop")
    assert first.code == 0, first.err
    said = json.loads(first.out)
    assert said == {"id": said["id"], "dispatchers": [NOWHERE, dispatcher.url], "dataDir": str(tmp_path)}
    second = await fernd(*arguments, "--description", "a desktop")
    third = await fernd(*arguments)
    assert (second.code, third.code) == (0, 0)
    described = ["a laptop", "a desktop", platform.node()[:80]]
    assert dispatcher.joined == [(said["id"], {"description": each}) for each in described]
    assert uuid.UUID(said["id"]).version == 4
    assert (tmp_path / "credential").read_text() == "secret-3\n"
    assert "secret" not in first.out + first.err + second.out + second.err + third.out + third.err


async def test_failures_have_codes_and_sentences(dispatcher: Dispatcher, tmp_path: Path) -> None:
    """3: cannot reach; 1: refused, with the reason; 2: usage and settings. Nothing is kept, no traceback is shown."""
    at = ("--data-dir", str(tmp_path / "agent"))
    unreachable, refused, no_url, no_token, no_setting, not_joined = await asyncio.gather(
        fernd("agent", "join", NOWHERE, "--token", "good", *at),
        fernd("agent", "join", dispatcher.url, "--token", "bad", *at),
        fernd("agent", "join", "dispatcher:7070", "--token", "good", *at),
        fernd("agent", "join", dispatcher.url, *at),
        fernd("agent", "join", dispatcher.url, "--token", "good", *at, FERND_CAPACITY_SLOTS="none"),
        fernd("agent", *at),
    )
    assert (unreachable.code, NOWHERE in unreachable.err) == (3, True)
    assert (refused.code, "token expired" in refused.err) == (1, True)
    assert (no_url.code, "dispatcher:7070: expected the URL" in no_url.err) == (2, True)
    assert (no_token.code, "--token" in no_token.err) == (2, True)
    assert (no_setting.code, "FERND_CAPACITY_SLOTS: expected a whole number" in no_setting.err) == (2, True)
    assert (not_joined.code, "fernd agent join" in not_joined.err) == (2, True)
    ended = (unreachable, refused, no_url, no_token, no_setting, not_joined)
    assert not any("Traceback" in end.err or end.out for end in ended)
    assert not (tmp_path / "agent" / "node.json").exists()
