"""Reads what a request carries: documents, query parameters, bodies. Whatever is wrong becomes a `Problem`."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import msgspec
from aiohttp import StreamReader, hdrs, http_exceptions, web
from msgspec import Struct

from agent.settings import expected
from dispatcher.config import ServerConfig
from dispatcher.problem import Problem, invalid
from dispatcher.routes.keys import CONFIG, CORE, LARGE_JSON
from dispatcher.store.pieces import CHUNK

DOCUMENT_LIMIT = 256 * 1024
"""Bytes of a JSON document that describes a function or a node."""

NAME_SHOWN = 100
"""Characters of a field's name that are given back to whoever sent it."""

HELD_SECONDS = 60.0
"""A large body that must be held in memory has to arrive within so long."""

_JSON = re.compile(r"(?:application/(?:[^;\s]+\+)?|text/)json\s*(?:;.*)?", re.IGNORECASE)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_PATH = re.compile(r"^(.*?),? - at (?:`key` in )?`\$((?:\.\w+|\[[^\]]*\])*)`$")
_UNKNOWN = re.compile(r"unknown field `(.*)`", re.DOTALL)
_WITH_PARTS = ("Expected `object", "Expected `array")
_MISSING = re.compile(r"missing required field `(.*)`")

_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

T = TypeVar("T")


def _number(text: str) -> int | float:
    """Read a number that is written with a point or an exponent: 2.0 and 2e0 are 2 in JSON, and as good."""
    number = float(text)
    return int(number) if number.is_integer() else number


_documents = msgspec.json.Decoder(float_hook=_number)


class Body(Struct, frozen=True):
    """A body that was read.

    Attributes:
        inline: The bytes where there are at most `CHUNK` of them, else None: the store has them.
        sha256: Digest of the bytes.
    """

    inline: bytes | None
    size: int
    sha256: bytes


# Documents ----------------------------------------------------------------------------------------


async def document(request: web.Request, kind: type[T], *, default: T | None = None) -> T:
    """Decode the JSON document in a request's body.

    Args:
        default: What an empty body means; without it, an empty body is wrong.

    Raises:
        Problem: It is not such a document.
    """
    content = b"".join([chunk async for chunk in chunks(request, DOCUMENT_LIMIT)])
    if not content and default is not None:
        return default
    if not content:
        raise invalid("body", "expected a JSON object, and the body is empty")
    try:
        return msgspec.convert(_documents.decode(content), kind)
    except msgspec.ValidationError as error:
        raise _wrong_field(str(error), kind) from None
    except _NOT_JSON as error:
        raise invalid("body", f"expected a JSON object in UTF-8: {_fault(error)}") from None


def _wrong_field(message: str, kind: Any) -> Problem:
    """Turn msgspec's message, which ends with a path, into a problem that names the field and what was expected."""
    found = _PATH.match(message)
    message, path = (found[1], found[2].lstrip(".")) if found else (message, "")
    for pattern, said in ((_UNKNOWN, "there is no such field"), (_MISSING, "this field is required")):
        if inner := pattern.search(message):
            name = (f"{path}.{inner[1]}" if path else inner[1])[:NAME_SHOWN]
            return invalid(name, f"{name}: {said}")
    name = re.sub(r"\[[^\]]*\]", "", path) or "body"
    for field in msgspec.structs.fields(kind):
        if path == field.encode_name and not message.startswith(_WITH_PARTS):
            return invalid(name, f"{name}: expected {expected(field.type)}")
    return invalid(name, f"{name}: {message[:1].lower()}{message[1:]}".replace("`", ""))


def _fault(error: Exception) -> str:
    """Say why something is not JSON in UTF-8, in words that are not those of our libraries."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    words = str(error).removeprefix("JSON is malformed: ")
    return "it is cut off" if words == "Input data was truncated" else words


# Bodies -------------------------------------------------------------------------------------------


async def chunks(request: web.Request, limit: int) -> AsyncIterator[bytes]:
    """Give a request's body as it arrives, byte for byte as it was sent.

    Raises:
        Problem: It is larger than the limit, comes too slowly, or does not arrive whole.
    """
    if request.content_length is not None and request.content_length > limit:
        raise _too_large(limit)
    # Only who may send the body is told to go on.
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue" and not request.content.is_eof():
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    patience = _Patience(request.app[CONFIG].server)
    size = 0
    while True:
        try:
            if request.content.is_eof():  # the rest is here already: most bodies come with their head
                chunk = request.content.read_nowait()
            else:
                chunk = await patience.read(request.content, size)
        except TimeoutError:
            raise Problem("TOO_SLOW", patience.sentence) from None
        except (web.RequestPayloadError, http_exceptions.HttpProcessingError, ConnectionError):
            raise invalid("body", "the body did not arrive whole") from None
        if not chunk:
            return
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        yield chunk


class _Patience:
    """Waits for a body that may stand still for a while, and must come with some speed all the same.

    Only the time that is spent waiting counts: what is here already is not slow, whatever is done with it meanwhile.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._waited = 0.0

    async def read(self, content: StreamReader, size: int) -> bytes:
        """Give what comes next, after ``size`` bytes.

        Raises:
            TimeoutError: It did not come in time.
        """
        loop = asyncio.get_running_loop()
        begun = loop.time()
        left = self._config.read_timeout + size / self._config.read_rate - self._waited
        try:
            async with asyncio.timeout(min(self._config.read_timeout, left)):
                return await content.readany()
        finally:
            self._waited += loop.time() - begun

    @property
    def sentence(self) -> str:
        """What is too slow."""
        return (
            f"nothing of the body came for {self._config.read_timeout:g} s, or in all less than"
            f" {self._config.read_rate} bytes a second"
        )


async def input_body(request: web.Request, key: str) -> Body:
    """Read the input of a task; what is larger than `CHUNK` goes into the store under ``key``.

    Raises:
        Problem: It says that it is JSON and is not, or it cannot be read.
    """
    source = chunks(request, request.app[CONFIG].limits.body)
    head = bytearray()
    async for chunk in source:
        head += chunk
        if len(head) > CHUNK:
            break
    else:
        if _says_json(request):
            _check_json(head)
        return Body(bytes(head), len(head), hashlib.sha256(head).digest())
    if _says_json(request):
        await _hold_and_check(request, head, source)
    digest = hashlib.sha256()

    async def whole() -> AsyncIterator[bytes]:
        digest.update(head)
        yield bytes(head)
        async for chunk in source:
            digest.update(chunk)
            yield chunk

    limit = request.app[CONFIG].limits.body
    size = await request.app[CORE].store.write_body(key, whole(), limit)
    if size is None:
        raise _too_large(limit)
    return Body(None, size, digest.digest())


async def _hold_and_check(request: web.Request, head: bytearray, source: AsyncIterator[bytes]) -> None:
    """Read the rest of a large JSON body, too: whether it is JSON shows at its end."""
    try:
        async with request.app[LARGE_JSON], asyncio.timeout(HELD_SECONDS):
            async for chunk in source:
                head += chunk
            _check_json(head)
    except TimeoutError:
        raise Problem("TOO_SLOW", f"a large JSON body must arrive within {HELD_SECONDS:g} s") from None


def _says_json(request: web.Request) -> bool:
    encoded = request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity"
    return not encoded and _JSON.fullmatch(request.headers.get(hdrs.CONTENT_TYPE, "").strip()) is not None


def _check_json(content: bytearray) -> None:
    if not content:
        return
    try:
        try:
            # Decoding to Raw checks the grammar and builds nothing, but does not look into strings.
            msgspec.json.decode(content, type=msgspec.Raw)
        except msgspec.DecodeError:
            # Half a surrogate pair that is written as an escape is within the grammar, but not for msgspec.
            msgspec.json.decode(_SURROGATE.sub(rb"\\u0041", content), type=msgspec.Raw)
        content.decode("utf-8")
    except _NOT_JSON as error:
        raise invalid("body", f"the content type says JSON, and the body is not: {_fault(error)}") from None


def _too_large(limit: int) -> Problem:
    return Problem("TOO_LARGE", f"the body has more than {limit} bytes", field="body")


# Query strings ------------------------------------------------------------------------------------


def raw_query(request: web.Request) -> str:
    """Give the query string as it was sent, without the question mark.

    Raises:
        Problem: It is too long, or cannot be sent on as it is.
    """
    query = request.raw_path.partition("?")[2]
    if "#" in query:
        raise invalid("query", "a # in a query string must be written %23")
    limit = request.app[CONFIG].limits.query
    try:
        size = len(query.encode("utf-8"))
    except UnicodeEncodeError:
        raise invalid("query", "the query string must be UTF-8") from None
    if size > limit:
        raise invalid("query", f"the query string has more than {limit} bytes")
    return query


def parameter(request: web.Request, name: str) -> str | None:
    """Give a query parameter that may stand once.

    Raises:
        Problem: It stands more than once.
    """
    values = request.query.getall(name, [])
    if len(values) > 1:
        raise invalid(name, f"{name} stands {len(values)} times")
    return values[0] if values else None
