"""The log that the engine keeps of a container, read as it grows."""

from __future__ import annotations

import asyncio
from typing import Self

import aiohttp

from agent.containers.engine_values import EngineError, EngineUnavailable, NotFound

OPEN_SECONDS = 30.0


class Logged:
    """What a container wrote, from its beginning, as the engine's log driver kept it; see `streams.FromLog`."""

    def __init__(self, session: aiohttp.ClientSession, response: aiohttp.ClientResponse) -> None:
        self._session = session
        self._response = response

    @classmethod
    async def open(cls, address: str, version: str, container: str, follow: bool) -> Self:
        """Begin to read.

        Args:
            address: Of the engine: ``unix://`` and a path, or ``tcp://`` and host and port.
            version: Of the API.
            follow: Go on with what the container writes, until it ends.
        """
        scheme, _, place = address.partition("://")
        unix = scheme == "unix"
        session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector("/" + place.lstrip("/")) if unix else aiohttp.TCPConnector(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=OPEN_SECONDS),
        )
        url = f"http://{'engine' if unix else place}/v{version}/containers/{container}/logs"
        query = {"stdout": "1", "stderr": "1", "follow": str(int(follow)), "details": "1"}
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                response = await session.get(url, params=query)
        except (aiohttp.ClientError, OSError) as error:  # a time-out is one too
            await session.close()
            raise EngineUnavailable(f"the Docker Engine does not answer: {error}") from None
        except BaseException:
            await session.close()
            raise
        if response.status >= 400:
            await session.close()
            kind = NotFound if response.status == 404 else EngineError
            raise kind(response.status, f"the engine gives no log of {container}")
        return cls(session, response)

    async def frame(self) -> tuple[int, bytes] | None:
        """Give the number of the stream and the bytes of the next entry; None after the last one.

        Raises:
            EngineUnavailable: The engine went away.
        """
        try:
            header = await self._response.content.readexactly(8)
            return header[0], await self._response.content.readexactly(int.from_bytes(header[4:], "big"))
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise EngineUnavailable("the engine's log ended in the middle of an entry") from None
            return None
        except (aiohttp.ClientError, OSError) as error:
            raise EngineUnavailable(f"the engine's log broke off: {error}") from None

    async def close(self) -> None:
        """Let go of the log. May be called again."""
        self._response.close()
        await self._session.close()
