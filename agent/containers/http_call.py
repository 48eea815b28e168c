"""One HTTP/1.1 request to the server in a container, and its answer.

Each request has a connection of its own. A kept connection would save a tenth of a millisecond, and the
server may close it in the very moment of the next request: then nobody knows whether the request arrived,
and it can neither be sent again nor given up honestly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import aclosing, nullcontext
from pathlib import Path

import aiohttp
from msgspec import Struct
from multidict import CIMultiDict
from yarl import URL

from agent.containers.answer import AnswerBody
from agent.containers.reach import Door
from agent.containers.task_input import pieces_of, size_of
from agent.protocol import Headers

CONNECT_SECONDS = 5.0

_PIECE = 64 * 1024
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NOT_SENT = _HOP_BY_HOP | {"authorization", "cookie", "expect", "content-length", "host"}
_NOT_RETURNED = _HOP_BY_HOP | {"content-length"}
_NOT_INVENTED = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


class NotSent(Exception):
    """No connection could be made: the server has seen nothing of the request."""


class Broken(Exception):
    """The connection ended before the answer did, and the server may have seen the request."""


class NotHttp(Exception):
    """What came back is no HTTP answer that could be passed on."""


class Answer(Struct, frozen=True):
    """The beginning of an answer; the body went elsewhere.

    Attributes:
        headers: End-to-end headers, in order.
        open_ended: Only the end of the connection said that the body was complete.
    """

    status: int
    headers: Headers
    open_ended: bool


def request_headers(given: Headers, ours: dict[str, str]) -> Headers:
    """Choose the caller's headers that go on to the function, and put ours in place of copies of theirs."""
    left_out = _NOT_SENT | _named_in_connection(given) | {name.lower() for name in ours}
    return [*((name, value) for name, value in given if name.lower() not in left_out), *ours.items()]


async def post(door: Door, query: str, headers: Headers, body: bytes | Path, answer_body: AnswerBody) -> Answer:
    """Send a task to a function. There is no time limit but that of the connection.

    Args:
        query: As the caller sent it, without the question mark.
        body: The input, or the file that it is in.
        answer_body: Takes the answer's body.

    Raises:
        NotSent: The server cannot be connected to.
        Broken: The connection ended too early.
        NotHttp: The answer cannot be understood.
        AnswerTooLarge: The answer's body is over the limit.
    """
    # A path with an empty query is sent without a question mark.
    url = URL.build(scheme="http", host=door.host, port=door.port, path="/", query_string=query, encoded=True)
    # Of lines of one name in several spellings the library would send the last alone.
    spelling: dict[str, str] = {}
    lines = [(spelling.setdefault(name.lower(), name), value) for name, value in headers]
    sent = CIMultiDict([*lines, ("Content-Length", str(await size_of(body)))])
    # Bytes go as they are; a file is read here, since the library would read it on the loop.
    content = body if isinstance(body, bytes) else pieces_of(body)
    try:
        async with (
            # Where the function answers before it has read all, the file is closed all the same.
            nullcontext() if isinstance(content, bytes) else aclosing(content),
            await _session(door) as session,
            session.post(url, data=content, headers=sent, allow_redirects=False) as response,
        ):
            if response.status < 200:
                raise NotHttp(f"the function answered {response.status}, and there is no protocol to change to")
            async for piece in response.content.iter_chunked(_PIECE):
                await answer_body.add(piece)
            return Answer(response.status, _end_to_end(response), _open_ended(response))
    except aiohttp.ClientConnectorError as error:
        raise NotSent(f"the server cannot be connected to: {error.strerror}") from None
    except aiohttp.ConnectionTimeoutError:
        raise NotSent(f"the server did not accept a connection within {CONNECT_SECONDS:g} s") from None
    except aiohttp.ServerDisconnectedError:
        raise Broken("the connection was closed without an answer") from None
    except aiohttp.ClientPayloadError:
        raise Broken("the connection was closed in the middle of the answer") from None
    except aiohttp.ClientResponseError as error:
        raise NotHttp(f"the answer is not HTTP: {_first_line(error.message)}") from None
    except (aiohttp.ClientError, OSError) as error:
        raise Broken(f"the connection broke: {_first_line(str(error))}") from None


async def is_ready(door: Door, path: str, limit: float) -> bool:
    """Say whether a GET of a path is answered with a 2xx within so many seconds."""
    url = URL(f"http://{door.host}:{door.port}/{path.lstrip('/')}", encoded=True)
    try:
        async with asyncio.timeout(limit), await _session(door) as session, session.get(url) as response:
            return 200 <= response.status < 300
    except (aiohttp.ClientError, OSError):  # a time-out is one too
        return False


async def _session(door: Door) -> aiohttp.ClientSession:
    """Make a client for one request, that adds nothing to it and takes nothing from the answer."""
    try:
        socket = await door.socket()
    except OSError as error:
        raise NotSent(f"the container's network cannot be entered: {error.strerror}") from None
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            socket_factory=lambda _: socket, limit=1, force_close=True, happy_eyeballs_delay=None
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=_NOT_INVENTED,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        max_line_size=16 * 1024,
        max_field_size=64 * 1024,
    )


def _named_in_connection(headers: Iterable[tuple[str, str]]) -> set[str]:
    """List the headers that a Connection header says are for this connection only."""
    return {
        token.strip().lower() for name, value in headers if name.lower() == "connection" for token in value.split(",")
    }


def _end_to_end(response: aiohttp.ClientResponse) -> Headers:
    headers = [(name.decode("latin-1"), value.decode("utf-8", "replace")) for name, value in response.raw_headers]
    left_out = _NOT_RETURNED | _named_in_connection(headers)
    return [(name, value) for name, value in headers if name.lower() not in left_out]


def _open_ended(response: aiohttp.ClientResponse) -> bool:
    names = {name.lower() for name, _ in response.raw_headers}
    return not names & {b"content-length", b"transfer-encoding"} and response.status not in {204, 304}


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:200]
