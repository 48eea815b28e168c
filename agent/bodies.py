"""Bodies that are too large for a message: fetched and uploaded by HTTP beside the session.

Network errors and 5xx are tried again with full jitter; a refusal is final at once, so that work that
is no longer ours does not knock for ever.
"""

from __future__ import annotations

import asyncio
import random as _random
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

import aiohttp
import structlog

from agent.backoff import full_jitter, retry_after
from agent.protocol import LEASE_HEADER, Lease

CONNECT_SECONDS = 15.0
SILENCE_SECONDS = 60.0
SLOWEST = 16 * 1024
"""Bytes a second: a transfer that is slower on the whole is begun again."""

FETCH_SECONDS = 120.0
"""An input that is not here after so long is given up, with its attempt."""

CHUNK = 256 * 1024


class BodyUnavailable(Exception):
    """An input cannot be fetched; the text says why."""


class Upload(StrEnum):
    """What became of an upload."""

    TAKEN = "taken"
    STALE = "stale"
    """The lease is no longer good: nobody wants the body."""
    TOO_LARGE = "too_large"
    NOT_NOW = "not_now"
    """The node is not allowed in; the session, which meets the same, says so and waits."""


class Bodies:
    """Moves bodies of attempts.

    Args:
        url: Gives the base address of the dispatcher in use.
        authorization: Value of the header that proves who this node is.
    """

    def __init__(
        self,
        http: aiohttp.ClientSession,
        url: Callable[[], str],
        node_id: str,
        authorization: str,
        *,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._http = http
        self._url = url
        self._node_id = node_id
        self._authorization = authorization
        self._random = random
        self._log = structlog.get_logger()

    async def fetch(self, lease: Lease, size: int, file: Path) -> None:
        """Write an input of so many bytes to a file.

        Raises:
            BodyUnavailable: It cannot be had, or has another size.
        """
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                await self._fetch(lease, size, file)
        except TimeoutError:
            raise BodyUnavailable(f"the input was not fetched within {FETCH_SECONDS:g} s") from None

    async def _fetch(self, lease: Lease, size: int, file: Path) -> None:
        failures = 0
        while True:
            wait = 0.0
            try:
                async with self._http.get(
                    self._address(lease, "input"),
                    headers=self._headers(lease),
                    timeout=_timeout(size),
                    allow_redirects=False,
                ) as response:
                    if response.status == 200:
                        await _write(response, size, file)
                        return
                    if response.status < 500 and response.status != 429:
                        raise BodyUnavailable(f"the dispatcher answered {response.status} for the input")
                    wait = retry_after(response.headers.get("Retry-After"))
                    problem = f"the dispatcher answered {response.status}"
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                problem = str(error) or type(error).__name__
            failures += 1
            self._log.info("input not fetched yet", problem=problem)
            await asyncio.sleep(max(wait, full_jitter(failures, self._random)))

    async def upload(self, lease: Lease, file: Path) -> Upload:
        """Upload a result, however long it takes, unless it is refused."""
        size = (await asyncio.to_thread(file.stat)).st_size
        failures = 0
        while True:
            wait = 0.0
            source = await asyncio.to_thread(file.open, "rb")
            try:
                async with self._http.put(
                    self._address(lease, "result"),
                    headers=self._headers(lease) | {"Content-Type": "application/octet-stream"},
                    data=source,
                    timeout=_timeout(size),
                    allow_redirects=False,
                ) as response:
                    if (verdict := _verdict(response.status)) is not None:
                        return verdict
                    wait = retry_after(response.headers.get("Retry-After"))
                    problem = f"the dispatcher answered {response.status}"
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                problem = str(error) or type(error).__name__
            finally:
                source.close()
            failures += 1
            self._log.info("result not uploaded yet", problem=problem)
            await asyncio.sleep(max(wait, full_jitter(failures, self._random)))

    def _address(self, lease: Lease, what: str) -> str:
        return f"{self._url()}/v1/node/{self._node_id}/task/{lease.task}/{what}"

    def _headers(self, lease: Lease) -> dict[str, str]:
        return {"Authorization": self._authorization, LEASE_HEADER: lease.header()}


def _verdict(status: int) -> Upload | None:
    """Say what an answer to an upload means; None: try again."""
    if 200 <= status < 300:
        return Upload.TAKEN
    if status in {401, 403}:
        return Upload.NOT_NOW
    if status == 413:
        return Upload.TOO_LARGE
    if status >= 500 or status in {408, 429}:
        return None
    return Upload.STALE


async def _write(response: aiohttp.ClientResponse, size: int, file: Path) -> None:
    written = 0
    target = await asyncio.to_thread(file.open, "wb")
    try:
        async for chunk in response.content.iter_chunked(CHUNK):
            written += len(chunk)
            if written > size:
                break
            await asyncio.to_thread(target.write, chunk)
    except OSError as error:
        if isinstance(error, ConnectionError | TimeoutError | aiohttp.ClientError):
            raise
        raise BodyUnavailable(f"the input cannot be written to disk: {error.strerror}") from None
    finally:
        await asyncio.to_thread(target.close)
    if written != size:
        raise BodyUnavailable(f"the input has not the {size} bytes that were announced")


def _timeout(size: int) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(
        total=SILENCE_SECONDS + size / SLOWEST, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS
    )
