"""One HTTP/1.1 request to the server in a container, and its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import aclosing
from http import HTTPStatus
from pathlib import Path

import aiohttp
from aiohttp.http import HttpProcessingError, RawResponseMessage
from msgspec import Struct
from yarl import URL

from agent.containers.answer import AnswerBody
from agent.containers.connection import CONNECT_SECONDS, Connection, Connections
from agent.containers.reach import Door
from agent.containers.spec import PORT
from agent.containers.task_input import pieces_of, size_of
from agent.protocol import Headers

RawHeaders = tuple[tuple[bytes, bytes], ...]

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
    """The connection ended before the answer did, and the server may have seen the request.

    Attributes:
        unseen: The server had kept the connection from an earlier request, and may have closed it before this one.
    """

    def __init__(self, detail: str, *, unseen: bool = False) -> None:
        super().__init__(detail)
        self.unseen = unseen


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


async def post(
    connections: Connections, query: str, headers: Headers, body: bytes | Path, answer_body: AnswerBody, *, fresh: bool
) -> Answer:
    """Send a task to a function. There is no time limit but that of the connection.

    Args:
        query: As the caller sent it, without the question mark.
        body: The input, or the file that it is in.
        answer_body: Takes the answer's body.
        fresh: Use a connection that had no request before: then a request that broke off was surely seen.

    Raises:
        NotSent: The server cannot be connected to.
        Broken: The connection ended too early.
        NotHttp: The answer cannot be understood.
        AnswerTooLarge: The answer's body is over the limit.
    """
    size = await size_of(body)
    head = _head(query, [*headers, *([("Connection", "close")] if fresh else ())], size)
    try:
        connection = await connections.take(fresh=fresh)
    except TimeoutError:
        raise NotSent(f"the server did not accept a connection within {CONNECT_SECONDS:g} s") from None
    except OSError as error:
        raise NotSent(f"the server cannot be connected to: {error.strerror}") from None
    whole = False
    try:
        if isinstance(body, bytes):
            connection.write(head + body)
            answer = await _answer(connection, answer_body)
        else:
            answer = await _answer_to_file(connection, head, body, answer_body)
        whole = True
    except aiohttp.ServerDisconnectedError:
        raise Broken("the connection was closed without an answer", unseen=connection.used) from None
    except aiohttp.ClientPayloadError:
        raise Broken("the connection was closed in the middle of the answer") from None
    except HttpProcessingError as error:
        raise NotHttp(f"the answer is not HTTP: {_parser_says(error.message)}") from None
    except (aiohttp.ClientError, OSError) as error:
        unseen = connection.used and not answer_body.size
        raise Broken(f"the connection broke: {_first_line(str(error))}", unseen=unseen) from None
    finally:
        if whole and not fresh:
            connections.give_back(connection)
        else:
            connection.close()
    return answer


def _head(query: str, headers: Headers, size: int) -> bytes:
    """Write out the head of a request. A path with an empty query is sent without a question mark."""
    lines = [
        f"POST {f'/?{query}' if query else '/'} HTTP/1.1",
        f"Host: 127.0.0.1:{PORT}",
        *(f"{name}: {value}" for name, value in headers),
        f"Content-Length: {size}",
    ]
    head = "\r\n".join(lines)
    if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1:
        raise ValueError("a line of the request has a line break in it")
    return f"{head}\r\n\r\n".encode()


async def _answer(connection: Connection, answer_body: AnswerBody) -> Answer:
    """Read an answer to its end."""
    message, payload = await connection.protocol.read()
    while 100 <= message.code < 200 and message.code != HTTPStatus.SWITCHING_PROTOCOLS:
        message, payload = await connection.protocol.read()
    if message.code < 200:
        raise NotHttp(f"the function answered {message.code}, and there is no protocol to change to")
    while piece := await payload.readany():
        await answer_body.add(piece)
    return Answer(message.code, _end_to_end(message.raw_headers), _open_ended(message))


async def _answer_to_file(connection: Connection, head: bytes, file: Path, answer_body: AnswerBody) -> Answer:
    """Send a request whose body is in a file, and read its answer, which may come before all is sent."""
    connection.write(head)
    writing = asyncio.create_task(_write(connection, file))
    try:
        return await _answer(connection, answer_body)
    finally:
        if not writing.done():
            connection.protocol.force_close()
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)


async def _write(connection: Connection, file: Path) -> None:
    async with aclosing(pieces_of(file)) as pieces:
        async for piece in pieces:
            connection.more(piece)
            await connection.protocol._drain_helper()  # noqa: SLF001 - what aiohttp's own writer waits with


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


def _end_to_end(raw: RawHeaders) -> Headers:
    headers = [(name.decode("latin-1"), value.decode("utf-8", "replace")) for name, value in raw]
    left_out = _NOT_RETURNED | _named_in_connection(headers)
    return [(name, value) for name, value in headers if name.lower() not in left_out]


def _open_ended(message: RawResponseMessage) -> bool:
    names = {name.lower() for name, _ in message.raw_headers}
    return not names & {b"content-length", b"transfer-encoding"} and message.code not in {204, 304}


def _parser_says(message: str) -> str:
    """Give what the parser found wrong, without the bytes that it quotes."""
    found = _first_line(message).partition(" when reading: b")[0].partition(": b")[0].rstrip(": ")
    return f"{found[:1].lower()}{found[1:]}"


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:200]
