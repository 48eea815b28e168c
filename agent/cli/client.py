"""A caller of the task API: requests, lists of many pages, the event stream of a task."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import quote, urlencode

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from agent.cli.errors import Refused, Unreachable, refusal
from agent.cli.profile import Endpoint
from agent.proxies import way_to

CONNECT_SECONDS = 10.0

SILENCE_SECONDS = 30.0
"""A request that says nothing for so long has failed, over and above what it waits for on purpose."""

EVENT_LINE_LIMIT = 1024 * 1024
"""Bytes that a line of an event stream may have."""

PAGE = 1000
"""Items of a page where all pages are wanted: the most that the dispatcher gives."""


class Event(NamedTuple):
    """One event of a task's stream."""

    id: str
    kind: str
    content: dict[str, Any]


class Client:
    """Speaks to one dispatcher. To be used as an asynchronous context."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            # A result is handed on as the function made it: nothing is unpacked, nothing asked for packed.
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding", "Content-Type"),
            read_bufsize=EVENT_LINE_LIMIT,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    @asynccontextmanager
    async def request(
        self,
        method: str,
        *segments: str,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        silence: float = SILENCE_SECONDS,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and give its answer, whatever its status.

        Args:
            segments: Of the path below ``/v1``, whatever is in them.
            query: Encoded already.
            silence: Seconds that may pass without a byte.

        Raises:
            Unreachable: There is no connection, or it broke.
        """
        address = self._endpoint.url
        # Not among the session's own headers: a proxy would be told those too.
        credentials = {"Authorization": f"Bearer {self._endpoint.token}"}
        path = "/".join(_encoded(segment) for segment in segments)
        url = URL(f"{address}/v1/{path}" + (f"?{query}" if query else ""), encoded=True)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=silence)
        try:
            async with self._session.request(
                method,
                url,
                headers=credentials | dict(headers or {}),
                data=body,
                timeout=timeout,
                allow_redirects=False,
                **way_to(address),
            ) as response:
                yield response
        except aiohttp.ClientConnectorError as error:
            raise Unreachable(f"cannot reach {address}: {_reason(error.os_error)}") from None
        except aiohttp.ServerTimeoutError:
            raise Unreachable(f"{address} did not answer in time") from None
        except aiohttp.ClientError as error:
            raise Unreachable(f"the connection to {address} broke: {str(error) or type(error).__name__}") from None

    async def call(
        self, method: str, *segments: str, content: Any = None, query: Mapping[str, Any] | None = None
    ) -> Any:
        """Send JSON, and give the JSON of a 2xx answer, or None where it has no body.

        Raises:
            Refused: The answer was another one.
        """
        answer, _ = await self._call(method, segments, content, query)
        return answer

    async def pages(self, kind: str, query: Mapping[str, Any]) -> AsyncIterator[list[dict[str, Any]]]:
        """Give a list page by page, as far as it is read: of functions, tasks, nodes and so on, or the audit."""
        segments = (kind,) if kind == "audit" else (kind, "list")
        while True:
            page, following = await self._call("GET", segments, None, query)
            yield page
            if following is None:
                return
            query = following.query

    async def whole_list(self, kind: str) -> list[dict[str, Any]]:
        """Give all pages of a list in one."""
        return [item async for page in self.pages(kind, {"limit": PAGE}) for item in page]

    async def function(self, name_or_id: str) -> dict[str, Any]:
        """Find a function by its id or, where no id is like that, by its name.

        Raises:
            Refused: There is no such function.
        """
        if len(name_or_id) == 24:
            try:
                found: dict[str, Any] = await self.call("GET", "function", name_or_id)
            except Refused as error:
                if error.status not in {400, 404}:
                    raise
            else:
                return found
        named: list[dict[str, Any]] = await self.call("GET", "function", "list", query={"name": name_or_id})
        if not named:
            raise Refused(f"NOT_FOUND: there is no function {name_or_id}", 404, "NOT_FOUND")
        return named[0]

    async def events(self, task_id: str, silence: float, after: str = "") -> AsyncIterator[Event]:
        """Give the events of a task, from the first that is still known to the last.

        Args:
            silence: Seconds that may pass without a byte.
            after: Id of the last event seen.

        Raises:
            Unreachable: The stream broke off.
            Refused: There is no stream.
        """
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
        async with self.request("GET", "task", task_id, "events", headers=headers, silence=silence) as response:
            if response.status != 200:
                raise refusal(response.status, await response.read())
            event_id, kind, lines = "", "message", list[str]()
            async for raw in _lines(response):
                if not raw:
                    if lines:
                        yield Event(event_id, kind, _content("\n".join(lines)))
                    kind, lines = "message", []
                    continue
                name, _, value = raw.partition(":")
                value = value.removeprefix(" ")
                if name == "id":
                    event_id = value
                elif name == "event":
                    kind = value
                elif name == "data":
                    lines.append(value)

    async def _call(
        self, method: str, segments: Sequence[str], content: Any, query: Mapping[str, Any] | None
    ) -> tuple[Any, URL | None]:
        """Make a `call`, and give the address of the next page too."""
        body = None if content is None else json.dumps(content).encode()
        headers = None if content is None else {"Content-Type": "application/json"}
        async with self.request(
            method, *segments, query=urlencode(query or {}, errors="surrogateescape"), headers=headers, body=body
        ) as response:
            received = await response.read()
            if not 200 <= response.status < 300:
                raise refusal(response.status, received)
            following = response.links["next"]["url"] if "next" in response.links else None
            try:
                return json.loads(received) if received else None, following if isinstance(following, URL) else None
            except ValueError:
                raise Refused(f"{self._endpoint.url} does not speak like a dispatcher", response.status) from None


def _encoded(segment: str) -> str:
    return "%2E" * len(segment) if segment in {".", ".."} else quote(segment, safe="", errors="surrogateescape")


def _reason(error: OSError) -> str:
    # The event loop puts the address in place of the system's words for an error number.
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[str]:
    try:
        async for raw in response.content:
            yield raw.decode("utf-8", "replace").rstrip("\r\n")
    except (HttpProcessingError, ValueError):  # a line over twice the limit; which of them depends on aiohttp's version
        raise Unreachable("the event stream cannot be read") from None


def _content(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
