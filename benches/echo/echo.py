"""The function of the benches: answers with what it is sent, with as little work as Python allows.

One asyncio protocol, no library. It serves one task after the other on as many connections as there are.
"""

from __future__ import annotations

import asyncio
import os
import signal


class Echo(asyncio.Protocol):
    """One connection. Of HTTP/1.1 it knows what a POST with a Content-Length needs."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        """Answer each request that is complete."""
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end].lower()
            at = head.find(b"\r\ncontent-length:")
            size = int(head[at + 17 :].partition(b"\r\n")[0]) if at >= 0 else 0
            whole = end + 4 + size
            if len(self._received) < whole:
                return
            body, self._received = self._received[end + 4 : whole], self._received[whole:]
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % size + body
            )


async def main() -> None:
    """Serve until SIGTERM."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_server(Echo, "0.0.0.0", int(os.environ.get("PORT", "8080")))
    async with server:
        await stop.wait()


asyncio.run(main())
