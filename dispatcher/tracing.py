"""Spans of tasks on their way to a collector, by OTLP over HTTP: only with ``[otel] endpoint``.

A task that ended costs an entry in a list. Once a second, or when many have come together, they are sent, beside all
other work. A collector that is away costs the oldest of them.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from secrets import token_bytes
from typing import TYPE_CHECKING

import aiohttp
import structlog

from agent.backoff import full_jitter
from dispatcher.traces import Trace, Traced, follow

if TYPE_CHECKING:
    from dispatcher.leases import Holding
    from dispatcher.store.records import Claim, Ended

log = structlog.get_logger()

BATCH = 256
"""Tasks whose spans are sent together."""

KEPT = 4096
"""Tasks that wait to be sent at most."""

SECONDS = 1.0
SEND_SECONDS = 10.0
LAST_SECONDS = 2.0
"""For what is left when the dispatcher stops."""

RETRYABLE = frozenset({429, 502, 503, 504})


class Tracing:
    """The spans of tasks, from the offer to the collector.

    Args:
        endpoint: Base address of the collector.

    Attributes:
        tasks: How many tasks' spans were sent, refused by the collector, or dropped since it is away.
    """

    def __init__(self, endpoint: str, version: str, *, new_id: Callable[[int], bytes] = token_bytes) -> None:
        from dispatcher import spans  # noqa: PLC0415 - needs the extra, and costs memory

        self.tasks = {"sent": 0, "refused": 0, "dropped": 0}
        self._encode = spans.encode
        self._url = f"{endpoint.rstrip('/')}/v1/traces"
        self._version = version
        self._new_id = new_id
        self._ended: deque[Traced] = deque()
        self._many = asyncio.Event()

    def offered(self, claim: Claim, now_ms: int) -> Trace | None:
        """Find the trace of a task that is offered to a node."""
        return follow(claim.headers, claim.issued_ms, now_ms, self._new_id)

    def ended(self, holding: Holding, ended: Ended) -> None:
        """Take a task that ended on a node."""
        if holding.trace is None:
            return
        lease = holding.lease
        self._ended.append(
            Traced(
                holding.trace,
                lease.task,
                lease.attempt,
                holding.revision.function,
                holding.node,
                ended.finished_ms,
                ended.status,
                ended.error,
                ended.detail,
                ended.cold,
                ended.spans,
            )
        )
        if len(self._ended) > KEPT:
            self._ended.popleft()
            self.tasks["dropped"] += 1
        if len(self._ended) >= BATCH:
            self._many.set()

    async def run(self) -> None:
        """Send what comes together, for as long as the dispatcher runs."""
        failures = 0
        async with aiohttp.ClientSession() as http:
            while True:
                try:
                    async with asyncio.timeout(SECONDS):
                        await self._many.wait()
                except TimeoutError:
                    pass
                self._many.clear()
                while self._ended:
                    failures = 0 if await self._send(http, quiet=failures > 0) else failures + 1
                    if failures:
                        await asyncio.sleep(full_jitter(failures, random.random))

    async def flush(self) -> None:
        """Send what is left, if that is soon done."""
        try:
            async with asyncio.timeout(LAST_SECONDS), aiohttp.ClientSession() as http:
                while self._ended and await self._send(http, quiet=False):
                    pass
        except TimeoutError:
            log.warning("spans were not sent, the collector is slow", tasks=len(self._ended))

    async def _send(self, http: aiohttp.ClientSession, *, quiet: bool) -> bool:
        """Send one batch; False where it should be tried again."""
        batch = [self._ended.popleft() for _ in range(min(BATCH, len(self._ended)))]
        told = "refused"
        try:
            body = await asyncio.to_thread(self._encode, batch, self._version, self._new_id)
            async with (
                asyncio.timeout(SEND_SECONDS),
                http.post(self._url, data=body, headers={"Content-Type": "application/x-protobuf"}) as response,
            ):
                if response.status < 300:
                    told = "sent"
                elif response.status in RETRYABLE:
                    raise aiohttp.ClientError(f"the collector answered {response.status}")  # noqa: TRY301
                else:
                    log.warning("spans refused", url=self._url, status=response.status, tasks=len(batch))
        except (aiohttp.ClientError, OSError) as error:  # a time-out is one too
            if not quiet:
                log.warning("spans not sent", url=self._url, reason=str(error) or "no answer in time")
            self._ended.extendleft(reversed(batch))
            return False
        except asyncio.CancelledError:
            self._ended.extendleft(reversed(batch))  # for `flush`, though the collector may have them already
            raise
        self.tasks[told] += len(batch)
        return True
