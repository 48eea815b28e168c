"""What the way of a warm task costs at the least: each hop alone, with nothing of fernd in between.

A task passes an HTTP server, a WebSocket both ways, the function's own server, and a commit. Here each of these is done
by itself, one at a time, in one process: a request to an aiohttp server that answers with what it was sent; an offer
and an outcome as frames of aiohttp's WebSocket; a row put into SQLite with an fsync. Their sum, beside a direct call of
the function, says how near to a direct call any such program in Python can come.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import docker
from aiohttp import web

from agent.protocol import (
    Credit,
    Lease,
    Offer,
    Outcome,
    Revision,
    decode_from_dispatcher,
    decode_from_node,
    encode,
)
from benches.cloud import build_echo, direct_container
from benches.figures import Figure
from benches.path import BODY, PLAIN

TIMES = 500
ROUNDS = 5

_LEASE = Lease(f"{1:024x}", 1, bytes(16))
_HEADERS = [("Content-Type", "application/json"), ("User-Agent", "bench")]
_OFFER = Offer(1, _LEASE, Revision(f"{1:024x}", 1, "image"), headers=_HEADERS, body=BODY, body_size=len(BODY))
_OUTCOME = Outcome(_LEASE, "answered", 200, _HEADERS, BODY, len(BODY), credit=Credit(2.0, 1024, 8, 1))


async def run(details: dict[str, Any]) -> list[Figure]:
    """Measure all in turn, some rounds of it; the quickest round of each counts."""
    client = docker.from_env()
    image = build_echo(client)
    found: dict[str, float] = {}
    with direct_container(client, image) as direct, tempfile.TemporaryDirectory(prefix="fernd-bench-") as directory:
        async with _server() as url, aiohttp.ClientSession() as session, session.ws_connect(f"{url}/frames") as frames:
            hops: dict[str, Callable[[], Awaitable[None]]] = {
                "direct": lambda: _call(session, f"{direct}/"),
                "http": lambda: _call(session, f"{url}/"),
                "websocket": lambda: _offer(frames),
                "commit": _commits(Path(directory)),
            }
            for _ in range(ROUNDS):
                for name, hop in hops.items():
                    took = await _microseconds(hop)
                    found[name] = min(took, found.get(name, took))
    details["microseconds"] = {name: round(took) for name, took in found.items()}
    whole = sum(found.values())
    note = f"µs, one at a time: {', '.join(f'{name} {round(took)}' for name, took in found.items())}"
    return [Figure("a direct call ÷ the bare hops of a task, 1 caller", found["direct"] / whole, note=note)]


async def _microseconds(hop: Callable[[], Awaitable[None]]) -> float:
    begun = time.perf_counter()
    for _ in range(TIMES):
        await hop()
    return (time.perf_counter() - begun) / TIMES * 1e6


async def _call(session: aiohttp.ClientSession, url: str) -> None:
    async with session.post(url, data=BODY, headers=PLAIN) as answer:
        await answer.read()


async def _offer(frames: aiohttp.ClientWebSocketResponse) -> None:
    await frames.send_bytes(encode([_OUTCOME]))
    decode_from_dispatcher(await frames.receive_bytes())


def _commits(directory: Path) -> Callable[[], Awaitable[None]]:
    db = sqlite3.connect(directory / "floor.db", isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE task (id INTEGER PRIMARY KEY, body BLOB)")

    async def commit() -> None:
        await asyncio.to_thread(db.execute, "INSERT INTO task (body) VALUES (?)", (BODY,))

    return commit


@contextlib.asynccontextmanager
async def _server() -> AsyncIterator[str]:
    """Serve what answers with what it was sent, and what takes outcomes and makes offers."""

    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read(), content_type="application/json")

    async def offers(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        async for message in socket:
            decode_from_node(message.data)
            await socket.send_bytes(encode([_OFFER]))
        return socket

    app = web.Application()
    app.router.add_post("/", echo)
    app.router.add_get("/frames", offers)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
