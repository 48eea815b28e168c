"""HTTP/1.1 to the Docker Engine, over its socket: a call and its answer, an answer that goes on, a raw stream.

Nothing waits for ever: each call has a limit, and one that passes means that the engine is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
from yarl import URL

from agent.calls import Calls
from agent.containers.engine_values import EngineError, EngineUnavailable, NotAsked, NotFound

DEFAULT_ADDRESS = "unix:///var/run/docker.sock"

CALLS = 8
"""Calls at the same time: an engine that starts many containers at once starts each of them late."""

NEWEST_API = (1, 44)
"""The newest version of the API that is spoken here, where the engine knows it. Engines know older ones too."""


def address_of(environ: Mapping[str, str]) -> str:
    """Say where the engine is: ``unix://`` and a path, or ``tcp://`` with host and port.

    Raises:
        EngineUnavailable: It is somewhere else, or far away.
    """
    address = environ.get("DOCKER_HOST") or DEFAULT_ADDRESS
    tls = environ.get("DOCKER_TLS_VERIFY") or environ.get("DOCKER_CERT_PATH")
    if (tls and environ.get("DOCKER_HOST")) or not address.startswith(("unix://", "tcp://")):
        raise EngineUnavailable("DOCKER_HOST must name a unix socket or a plain TCP address of a local engine")
    return address


def segment(name: str) -> str:
    """Write a name as one part of a path, whatever stands in it."""
    return quote(name, safe="")


class EngineHttp:
    """A client of one engine. It may be used once `ask_version` has been answered.

    Args:
        in_doubt: Set when a call finds that the engine does not answer.
        calls: Counts them; those that go on until their answer begins.
    """

    def __init__(self, address: str, in_doubt: asyncio.Event, calls: Calls) -> None:
        scheme, _, place = address.partition("://")
        self._path = "/" + place.lstrip("/") if scheme == "unix" else ""
        self._place = "engine" if self._path else place
        self._in_doubt = in_doubt
        self._calls = calls
        self._version = ""
        self._turn = asyncio.Semaphore(CALLS)
        # `CALLS` is kept by ourselves, since a signal must not wait for its turn.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(self._path, limit=0) if self._path else aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Let go of the connections."""
        await self._session.close()

    async def ask_version(self, limit: float) -> None:
        """Agree on a version of the API, also with an engine that was replaced by another."""
        self._version = ""
        found = await self.call("GET", "/version", limit=limit)
        newest = min(NEWEST_API, _version(found["ApiVersion"]))
        self._version = "/v{}.{}".format(*max(newest, _version(found.get("MinAPIVersion") or "1.0")))

    async def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        content: object = None,
        *,
        limit: float,
        urgent: bool = False,
    ) -> Any:
        """Call the API and give what its answer says; None where that is empty.

        Args:
            content: Sent as JSON; bytes are sent as they are.
            limit: Seconds for everything.
            urgent: Do not wait until fewer than `CALLS` calls are under way.

        Raises:
            EngineError: The engine refused.
            EngineUnavailable: It did not answer in time, or not at all.
        """
        answer = await self._within(limit, self._turn if not urgent else nullcontext(), method, path, query, content)
        return msgspec.json.decode(answer) if answer.strip() else None

    async def lines(
        self, method: str, path: str, query: Mapping[str, str], content: object = None, *, limit: float
    ) -> list[dict[str, Any]]:
        """Call the API, and give what each line of its answer says. Otherwise like `call`."""
        answer = await self._within(limit, self._turn, method, path, query, content)
        return [msgspec.json.decode(line) for line in answer.splitlines() if line.strip()]

    async def open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        *,
        headers: Mapping[str, str],
        limit: float,
        stall: float,
    ) -> aiohttp.ClientResponse:
        """Begin to read an answer that goes on; whoever asked closes it.

        Args:
            limit: Seconds until the answer begins.
            stall: Seconds without a byte after which it breaks off; 0: none.

        Raises:
            EngineError: The engine refused.
            EngineUnavailable: It did not answer in time, or not at all.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_read=stall or None)
        with self._calls.timed():
            try:
                async with asyncio.timeout(limit):
                    response = await self._session.request(
                        method, self._url(path, query), headers=headers, allow_redirects=False, timeout=timeout
                    )
                    if response.status >= 300:
                        raise _refusal(response.status, await response.read())
            except EngineUnavailable:
                self._in_doubt.set()
                raise
            except (aiohttp.ClientError, OSError) as error:  # a time-out is one too
                raise self._away(error) from None
        return response

    async def hijack(
        self, path: str, query: Mapping[str, str], limit: float
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Turn a connection into a raw stream.

        Raises:
            EngineError: The engine refused.
            EngineUnavailable: It did not answer in time, or not at all.
        """
        with self._calls.timed():
            try:
                async with asyncio.timeout(limit):
                    if self._path:
                        reader, writer = await asyncio.open_unix_connection(self._path)
                    else:
                        host, _, port = self._place.rpartition(":")
                        reader, writer = await asyncio.open_connection(host, int(port))
                    try:
                        await self._upgrade(reader, writer, path, query)
                    except BaseException:
                        writer.transport.abort()
                        raise
            except EngineUnavailable:
                self._in_doubt.set()
                raise
            except (OSError, EOFError, asyncio.LimitOverrunError, ValueError) as error:
                raise self._away(error) from None
        return reader, writer

    async def _within(  # noqa: PLR0917 - a call as it is
        self,
        limit: float,
        turn: AbstractAsyncContextManager[None],
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        content: object,
    ) -> bytes:
        with self._calls.timed():
            try:
                async with asyncio.timeout(limit), turn:
                    return await self._answer(method, path, query, content)
            except TimeoutError:
                raise self._away(f"it said nothing for {limit:g} s") from None
            except EngineUnavailable:
                self._in_doubt.set()
                raise
            except aiohttp.ClientConnectorError as error:
                raise NotAsked(str(self._away(error))) from None
            except (aiohttp.ClientError, OSError) as error:
                raise self._away(error) from None

    async def _answer(self, method: str, path: str, query: Mapping[str, str] | None, content: object) -> bytes:
        body = content if content is None or isinstance(content, bytes) else msgspec.json.encode(content)
        kind = "application/x-tar" if isinstance(content, bytes) else "application/json"
        async with self._session.request(
            method,
            self._url(path, query),
            data=body,
            headers={"Content-Type": kind} if body is not None else None,
            allow_redirects=False,
        ) as response:
            answer = await response.read()
            if response.status >= 300 and response.status != 304:  # 304: it is so already
                raise _refusal(response.status, answer)
            return answer

    async def _upgrade(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, query: Mapping[str, str]
    ) -> None:
        request = (
            f"POST {self._url(path, query).raw_path_qs} HTTP/1.1\r\nHost: {self._place}\r\n"
            "Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
        )
        writer.write(request.encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status = int(head.split(" ", 2)[1])
        if status in {101, 200}:
            return
        _, _, length = head.partition("content-length:")
        raise _refusal(status, await reader.readexactly(int(length.partition("\r\n")[0] or 0)))

    def _url(self, path: str, query: Mapping[str, str] | None) -> URL:
        asked = f"?{urlencode(query)}" if query else ""
        return URL(f"http://{self._place}{self._version}{path}{asked}", encoded=True)

    def _away(self, reason: object) -> EngineUnavailable:
        self._in_doubt.set()
        return EngineUnavailable(f"the Docker Engine does not answer: {reason}")


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor)


def _refusal(status: int, answer: bytes) -> EngineError | EngineUnavailable:
    """Make an exception of what the engine answered."""
    if status in {502, 503, 504}:
        return EngineUnavailable(f"the engine answered {status}")
    try:
        message = str(msgspec.json.decode(answer)["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        message = answer.decode(errors="replace").strip() or f"the engine answered {status}"
    return (NotFound if status == 404 else EngineError)(status, message)
