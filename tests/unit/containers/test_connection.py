"""Kept connections, against a real server: used again where that is safe, and nothing is ever sent twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from agent.containers.answer import AnswerBody
from agent.containers.connection import Connections
from agent.containers.http_call import Broken, post
from agent.containers.reach import Door

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Counts connections and requests; what it does with a request the test says."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests = 0
        self.served: list[asyncio.Task[None] | None] = []
        self.answer: Callable[[asyncio.StreamWriter], Awaitable[None]] = self.keep

    async def keep(self, writer: asyncio.StreamWriter) -> None:
        writer.write(ANSWER)

    async def close(self, writer: asyncio.StreamWriter) -> None:
        writer.write(ANSWER)
        writer.close()

    async def hang_up(self, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.served.append(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while not writer.is_closing():
                await reader.readuntil(b"\r\n\r\n")
                self.requests += 1
                await self.answer(writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Server, Connections]]:
    server = Server()
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    connections = Connections(Door("127.0.0.1", listener.sockets[0].getsockname()[1]))
    try:
        yield server, connections
    finally:
        connections.close()
        await asyncio.gather(*(task for task in server.served if task is not None))
        listener.close()
        await listener.wait_closed()


async def call(connections: Connections, directory: Path, *, fresh: bool = False) -> bytes:
    body = AnswerBody(directory / "body", 1000)
    answer = await post(connections, "", [], b"", body, fresh=fresh)
    assert answer.status == 200
    content, _ = await body.close()
    assert content is not None
    return content


async def test_a_connection_that_stays_open_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the server has left one open for a while; what must not run twice has one of its own all the same."""
    monkeypatch.setattr("agent.containers.connection.TRUST_SECONDS", 0.02)
    async with serving() as (server, connections):
        for _ in range(3):
            await call(connections, tmp_path)
        assert server.connections == 3
        await asyncio.sleep(0.03)
        for _ in range(5):
            assert await call(connections, tmp_path) == b"ok"
        assert server.connections == 3
        await call(connections, tmp_path, fresh=True)
        assert (server.connections, server.requests) == (4, 9)


async def test_a_server_that_closes_unannounced_is_never_met_twice(tmp_path: Path) -> None:
    """However soon the next request comes, no request is lost with the connection."""
    async with serving() as (server, connections):
        server.answer = server.close
        for _ in range(50):
            assert await call(connections, tmp_path) == b"ok"
        assert (server.connections, server.requests) == (50, 50)


async def test_a_connection_that_ends_with_a_request_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a kept one nobody knows whether the server saw the request, on a fresh one it did. Neither is sent again."""
    monkeypatch.setattr("agent.containers.connection.TRUST_SECONDS", 0.0)
    async with serving() as (server, connections):
        await call(connections, tmp_path)
        server.answer = server.hang_up
        for unseen in (True, False):
            with pytest.raises(Broken) as broken:
                await call(connections, tmp_path)
            assert broken.value.unseen is unseen
        assert server.requests == 3


async def test_an_old_connection_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server may be about to close it."""
    monkeypatch.setattr("agent.containers.connection.FRESH_SECONDS", 0.0)
    async with serving() as (server, connections):
        for _ in range(3):
            await call(connections, tmp_path)
        assert server.connections == 3
