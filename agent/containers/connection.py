"""Connections to the server in a container, each for one request after another.

A server may close a connection that it kept in the very moment of the next request. Then nobody knows whether the
request arrived, and nothing is sent a second time here. So that this hardly ever happens a connection is used again
only where the server has been seen to leave one open for a while after its answer, while it is fresh, and when no end
of it has arrived. The parsing is aiohttp's own client protocol; only its session, which costs more than all the rest
of a warm call on our side, is left out.
"""

from __future__ import annotations

import asyncio
import socket

from aiohttp.client_proto import ResponseHandler

from agent.containers.reach import Door

CONNECT_SECONDS = 5.0

TRUST_SECONDS = 0.05
"""A server that left a connection open for so long after its answer keeps connections."""

FRESH_SECONDS = 1.0
"""After so long without a request a connection is not used again: servers close idle ones, few of them so soon."""

_READ_BYTES = 64 * 1024


class Connection:
    """One connection.

    Attributes:
        used: It has had an answer before.
    """

    def __init__(self, end: socket.socket, protocol: ResponseHandler) -> None:
        self.used = False
        self.protocol = protocol
        self.idle_since = 0.0
        self._socket = end

    @property
    def is_open(self) -> bool:
        """Nothing says that it has ended, also not in what the loop has not read yet."""
        if self.protocol.should_close or not self.protocol.is_connected():
            return False
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False  # an end, or bytes that nobody asked for

    def write(self, request: bytes) -> None:
        """Send a request, or the beginning of it, and expect an answer."""
        self.protocol.set_response_params(
            read_until_eof=True,
            auto_decompress=False,
            read_bufsize=_READ_BYTES,
            max_line_size=16 * 1024,
            max_field_size=64 * 1024,
        )
        self.more(request)

    def more(self, piece: bytes) -> None:
        """Send more of it."""
        if self.protocol.transport is not None:
            self.protocol.transport.write(piece)

    def close(self) -> None:
        """End it, and with it what waits to be sent."""
        self.protocol.abort()


class Connections:
    """The connections to one server that no request uses now."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._idle: list[Connection] = []
        self._keeps = False
        """The server was seen to leave a connection open."""

    async def take(self, *, fresh: bool) -> Connection:
        """Give a connection to the server.

        Args:
            fresh: One that had no request before.

        Raises:
            OSError: There is none to be had; a time-out is one too.
        """
        now = asyncio.get_running_loop().time()
        while self._idle and not fresh:
            newest = self._idle[-1]
            age = now - newest.idle_since
            if age < FRESH_SECONDS and newest.is_open:
                self._keeps = self._keeps or age >= TRUST_SECONDS
                if not self._keeps:
                    break
                return self._idle.pop()
            self._idle.pop().close()
        return await self._connect()

    def give_back(self, connection: Connection) -> None:
        """Take a connection back whose answer is complete."""
        if connection.protocol.should_close or (self._idle and not self._keeps):
            connection.close()
            return
        connection.used = True
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)

    def close(self) -> None:
        """End all of them."""
        while self._idle:
            self._idle.pop().close()

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        end = await self._door.socket()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await loop.sock_connect(end, (self._door.host, self._door.port))
            _, protocol = await loop.create_connection(lambda: ResponseHandler(loop), sock=end)
        except BaseException:
            end.close()
            raise
        return Connection(end, protocol)
