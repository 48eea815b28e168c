"""Server-Sent Events on a connection: frames, and what becomes of whoever does not read them."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import msgspec
from aiohttp import web

from dispatcher import auth
from dispatcher.routes.keys import CORE, now_ms
from dispatcher.server import cut_off
from dispatcher.store.errors import StoreUnavailable

PING_SECONDS = 15.0
WRITE_SECONDS = 10.0
"""A watcher that does not take what it is sent within so long is dropped."""

CHECK_SECONDS = 5.0
"""So long after its token was revoked, a watcher is told no more."""

RETRY_MS = 1000
"""Watchers whose connection breaks come back after so long."""

_encoder = msgspec.json.Encoder()


class EventStream:
    """An answer that goes on for as long as there is news."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._one_at_a_time = asyncio.Lock()
        self._clock = asyncio.get_running_loop().time
        self._checked = self._clock()
        self.response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )

    async def begin(self) -> bool:
        """Send the head; False where nothing may follow it."""
        await self.response.prepare(self._request)
        if self._request.method == "HEAD":
            return False
        await self._write(b"retry: %d\n\n" % RETRY_MS)
        return True

    async def send(self, kind: str, content: object, number: int | None = None) -> None:
        """Send an event.

        Args:
            number: Its id, which whoever comes back names as the last one seen.

        Raises:
            ConnectionResetError: The watcher is gone, or has stopped reading.
            Problem: Its token is good no longer.
        """
        name = b"" if number is None else f"id: {_label(self._request)}{number}\n".encode()
        await self._write(b"%sevent: %s\ndata: %s\n\n" % (name, kind.encode(), _encoder.encode(content)))

    async def ping(self) -> None:
        """Send what watchers pass over, so that a connection which broke is noticed."""
        await self._write(b": ping\n\n")

    async def _write(self, content: bytes) -> None:
        async with self._one_at_a_time:
            await self._check_watcher()
            try:
                async with asyncio.timeout(WRITE_SECONDS):
                    await self.response.write(content)
            except TimeoutError:
                cut_off(self._request.transport)
                raise ConnectionResetError("the watcher stopped reading") from None

    async def _check_watcher(self) -> None:
        if self._clock() - self._checked < CHECK_SECONDS:
            return
        app = self._request.app
        # Where the store does not answer, nothing is revoked either.
        with suppress(StoreUnavailable):
            await auth.principal_of(self._request, app[CORE].store, app[CORE].lookups, now_ms(app))
            self._checked = self._clock()


def last_seen(request: web.Request) -> int | None:
    """Read the id of the last event that a watcher who comes back has seen; None where it was seen elsewhere."""
    label, text = _label(request), request.headers.get("Last-Event-ID", "")
    number = text.removeprefix(label)
    return (
        int(number) if text.startswith(label) and number.isascii() and number.isdigit() and len(number) < 16 else None
    )


def _label(request: web.Request) -> str:
    """Give what ids of events begin with: each of several dispatchers numbers what happens to a task by itself."""
    outside = request.app[CORE].events.outside
    return outside.label if outside is not None else ""
