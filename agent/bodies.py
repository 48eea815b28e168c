"""Bodies that are too large for a message: fetched and uploaded by HTTP beside the session.

Both ways a transfer that broke goes on where it ended, so that a line which never holds for long
brings a large body over all the same. Network errors and 5xx are tried again with full jitter, for
days if it must be; a refusal is final at once, so that work that is no longer ours does not knock for
ever. Nothing here holds more than a piece of a body in memory.
"""

from __future__ import annotations

import asyncio
import hashlib
import random as _random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import StrEnum
from io import FileIO
from pathlib import Path
from typing import Literal

import aiohttp
import structlog
from aiohttp import payload
from aiohttp.abc import AbstractStreamWriter

from agent.backoff import full_jitter, retry_after
from agent.protocol import LEASE_HEADER, OFFSET_HEADER, SHA256_HEADER, SIZE_HEADER, Lease
from agent.proxies import way_to

CONNECT_SECONDS = 15.0
SILENCE_SECONDS = 60.0
"""A transfer of which nothing moves for so long is broken off, and gone on with."""

FETCH_SECONDS = 120.0
"""An input that is not here after so long, and the time that `SLOWEST` gives it, is given up with its attempt."""

SLOWEST = 64 * 1024
"""Bytes a second at which an input should come."""

CHECKED = 4 * 1024 * 1024
"""Bytes a second at which the dispatcher can be expected to check a result that it has."""

CHUNK = 256 * 1024

_FAILURES = (aiohttp.ClientError, TimeoutError, OSError)


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
    LOST = "lost"
    """The file is not what the function answered any more."""


class _NotYet(Exception):
    """The dispatcher cannot do it now; asked again after ``wait`` seconds at the earliest."""

    def __init__(self, problem: str, wait: float = 0.0) -> None:
        super().__init__(problem)
        self.wait = wait


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
        limit = FETCH_SECONDS + size / SLOWEST
        try:
            async with asyncio.timeout(limit):
                await self._fetch(lease, size, file)
        except TimeoutError:
            raise BodyUnavailable(f"the input was not fetched within {limit:.0f} s") from None
        except OSError as error:
            raise BodyUnavailable(f"the input cannot be written to disk: {error.strerror}") from None

    async def upload(self, lease: Lease, file: Path, size: int, sha256: str) -> Upload:
        """Upload a result of so many bytes, however long it takes, unless it is refused."""
        failures, best = 0, 0
        while True:
            try:
                offset = await self._offset(lease)
                if isinstance(offset, Upload):
                    return offset
                if offset > best:
                    failures, best = 0, offset
                verdict = await self._put(lease, file, min(offset, size), size, sha256)
                if verdict is not None:
                    return verdict
                # The bytes that arrived are not those that were sent, or not those that were hashed.
                if not await asyncio.to_thread(_is_intact, file, size, sha256):
                    return Upload.LOST
                problem, wait, best = "the result arrived damaged", 0.0, 0
            except _NotYet as error:
                problem, wait = str(error), error.wait
            except _FAILURES as error:
                problem, wait = str(error) or type(error).__name__, 0.0
            failures += 1
            self._log.info("result not uploaded yet", task=lease.task, problem=problem, failures=failures)
            await asyncio.sleep(max(wait, full_jitter(failures, self._random)))

    async def _fetch(self, lease: Lease, size: int, file: Path) -> None:
        async with _opened(file, "wb") as target:
            failures = 0
            while True:
                before = target.tell()
                try:
                    return await self._get(lease, size, target)
                except _NotYet as error:
                    problem, wait = str(error), error.wait
                except _FAILURES as error:
                    problem, wait = str(error) or type(error).__name__, 0.0
                failures = 1 if target.tell() > before else failures + 1
                self._log.info("input not fetched yet", task=lease.task, problem=problem, failures=failures)
                await asyncio.sleep(max(wait, full_jitter(failures, self._random)))

    async def _get(self, lease: Lease, size: int, target: FileIO) -> None:
        """Fetch what is missing. What came until a connection broke is in the file."""
        have = target.tell()
        headers = self._headers(lease) | ({"Range": f"bytes={have}-"} if have else {})
        address = self._address(lease, "input")
        async with self._http.get(
            address, headers=headers, timeout=_timeout(), allow_redirects=False, **way_to(address)
        ) as response:
            if response.status == 200 and have:  # the whole of it
                await _write(target, b"", restart=True)
            elif response.status not in {200, 206}:
                _raise_if_passing(response)
                raise BodyUnavailable(f"the dispatcher answered {response.status} for the input")
            async for chunk in response.content.iter_chunked(CHUNK):
                if target.tell() + len(chunk) > size:
                    raise BodyUnavailable(f"the input has more than the {size} bytes that were announced")
                await _write(target, chunk)
        if target.tell() != size:
            raise BodyUnavailable(f"the input has not the {size} bytes that were announced")

    async def _offset(self, lease: Lease) -> int | Upload:
        """Ask how much of a result is there already."""
        address, headers = self._address(lease, "result"), self._headers(lease)
        async with self._http.head(
            address, headers=headers, timeout=_timeout(), allow_redirects=False, **way_to(address)
        ) as response:
            if response.status == 200:
                kept = response.headers.get(OFFSET_HEADER, "0")
                return int(kept) if kept.isascii() and kept.isdigit() and len(kept) < 16 else 0
            _raise_if_passing(response)
            return _refusal(response.status)

    async def _put(self, lease: Lease, file: Path, offset: int, size: int, sha256: str) -> Upload | None:
        """Send a result from an offset on; None: what arrived has another hash."""
        headers = self._headers(lease) | {
            OFFSET_HEADER: str(offset),
            SIZE_HEADER: str(size),
            SHA256_HEADER: sha256,
        }
        if not await asyncio.to_thread(_has_size, file, size):
            return Upload.LOST
        address = self._address(lease, "result")
        async with (
            _opened(file, "rb") as source,
            asyncio.timeout(SILENCE_SECONDS) as silence,
            self._http.put(
                address,
                headers=headers,
                data=_Part(source, offset, size, silence),
                timeout=_timeout(size),
                allow_redirects=False,
                **way_to(address),
            ) as response,
        ):
            match response.status:
                case 204:
                    return Upload.TAKEN
                case 416:
                    raise _NotYet("the dispatcher has kept another part of it")
                case 422:
                    return None
            _raise_if_passing(response)
            return _refusal(response.status)

    def _address(self, lease: Lease, what: str) -> str:
        return f"{self._url()}/v1/node/{self._node_id}/task/{lease.task}/{what}"

    def _headers(self, lease: Lease) -> dict[str, str]:
        return {"Authorization": self._authorization, LEASE_HEADER: lease.header()}


class _Part(payload.Payload):
    """A file from an offset on; each piece that is taken ends the silence.

    It is sent once: aiohttp would repeat a request of which the connection broke, from an offset that is no longer
    right.
    """

    def __init__(self, source: FileIO, offset: int, size: int, silence: asyncio.Timeout) -> None:
        super().__init__(source, content_type="application/octet-stream")
        self._source = source
        self._offset = offset
        self._size = size - offset
        self._whole = size
        self._silence = silence

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:  # noqa: ARG002 - aiohttp's signature
        raise TypeError("a result is bytes")

    async def write(self, writer: AbstractStreamWriter) -> None:
        self._consumed = True
        await asyncio.to_thread(self._source.seek, self._offset)
        left = self._size
        while left and (chunk := await asyncio.to_thread(self._source.read, min(CHUNK, left))):
            left -= len(chunk)
            await writer.write(chunk)
            self._allow(SILENCE_SECONDS)
        self._allow(_answer_seconds(self._whole))

    def _allow(self, seconds: float) -> None:
        if not self._silence.expired():
            self._silence.reschedule(asyncio.get_running_loop().time() + seconds)


def _raise_if_passing(response: aiohttp.ClientResponse) -> None:
    """Raise `_NotYet` unless the answer is a refusal of the dispatcher's own.

    A redirect, or a 2xx that the dispatcher does not give, comes from something else on the way, such as the log-in
    page of a network.
    """
    if not 400 <= response.status < 500 or response.status in {408, 429}:
        wait = retry_after(response.headers.get("Retry-After"))
        raise _NotYet(f"the dispatcher answered {response.status}", wait)


def _refusal(status: int) -> Upload:
    if status in {401, 403}:
        return Upload.NOT_NOW
    return Upload.TOO_LARGE if status == 413 else Upload.STALE


@asynccontextmanager
async def _opened(file: Path, mode: Literal["rb", "wb"]) -> AsyncIterator[FileIO]:
    """Open a file without a buffer; it is closed also where a cancellation comes while a thread opens it."""
    opening = asyncio.ensure_future(asyncio.to_thread(file.open, mode, buffering=0))
    try:
        opened: FileIO = await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_opened)
        raise
    try:
        yield opened
    finally:
        await asyncio.to_thread(opened.close)


def _close_opened(opening: asyncio.Future[FileIO]) -> None:
    if opening.exception() is None:
        opening.result().close()


async def _write(target: FileIO, chunk: bytes, *, restart: bool = False) -> None:
    try:
        if restart:
            await asyncio.to_thread(_empty, target)
        await asyncio.to_thread(_append, target, chunk)
    except OSError as error:
        raise BodyUnavailable(f"the input cannot be written to disk: {error.strerror}") from None


def _append(target: FileIO, chunk: bytes) -> None:
    left = memoryview(chunk)
    while left:
        left = left[target.write(left) :]


def _empty(target: FileIO) -> None:
    target.seek(0)
    target.truncate()


def _has_size(file: Path, size: int) -> bool:
    try:
        return file.stat().st_size == size
    except OSError:
        return False


def _is_intact(file: Path, size: int, sha256: str) -> bool:
    if not _has_size(file, size):
        return False
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest() == sha256


def _answer_seconds(size: int) -> float:
    return SILENCE_SECONDS + size / CHECKED


def _timeout(size: int = 0) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=_answer_seconds(size))
