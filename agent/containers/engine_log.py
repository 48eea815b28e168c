"""The log that the engine keeps of a container, read as it grows."""

from __future__ import annotations

import asyncio

import aiohttp

from agent.containers.engine_values import EngineUnavailable


class Logged:
    """What a container wrote, from its beginning, as the engine's log driver kept it; see `streams.FromLog`."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

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
