"""A wire to PostgreSQL that breaks where a test says: when a commit is asked for, or when it is confirmed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from tests.postgres import Cluster


class Cutter:
    """Passes bytes on between a store and a server.

    Attributes:
        cut: Where the next commit breaks off: before the server gets it, or before its answer goes back.
        cuts: How often it has.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.port = 0
        self.cut: Literal["asked", "confirmed"] | None = None
        self.cuts = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Cutter]:
        """Listen while the context lasts."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self

    def url(self, schema: str) -> str:
        """Give the URL of a schema by way of this wire."""
        return self._cluster.schema(schema).replace(f":{self._cluster.port}/", f":{self.port}/")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up, out = await asyncio.open_connection("127.0.0.1", self._cluster.port)
        except OSError:
            writer.transport.abort()
            return
        down = asyncio.create_task(self._pass(up, writer))
        try:
            while data := await reader.read(65_536):
                if b"COMMIT" in data and self.cut == "asked":
                    self._note()
                    break
                if b"COMMIT" in data and self.cut == "confirmed":
                    self._note()
                    # Nothing of the answer goes back; the server ends the session when it has committed.
                    down.cancel()
                    out.write(data)
                    out.write_eof()
                    await up.read()
                    break
                out.write(data)
        except ConnectionError:
            pass  # either side has gone, which is what a wire is for
        finally:
            down.cancel()
            await asyncio.wait([down])
            for end in (writer, out):
                end.transport.abort()

    def _note(self) -> None:
        self.cut = None
        self.cuts += 1

    @staticmethod
    async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.transport.abort()
