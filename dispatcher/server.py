"""The listening side: aiohttp's server with our limits, and with problem documents for what never reaches the app."""

from __future__ import annotations

import asyncio
import socket
import struct
from functools import partial
from http import HTTPStatus
from typing import Any

import structlog
from aiohttp import http_exceptions, web
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

from agent.codes import CODES
from dispatcher import problem
from dispatcher.config import DispatcherConfig
from dispatcher.problem import Problem

PATH_BYTES = 1024
"""Bytes of a request line beside the query string."""

_FAULTS: dict[type, str] = {
    http_exceptions.LineTooLong: "the request line or a header is too long",
    http_exceptions.InvalidURLError: "the path or the query string has a character that must be percent-encoded",
}

log = structlog.get_logger()


class Runner(web.AppRunner):
    """Runs an application behind our `_Connection`."""

    def __init__(self, app: web.Application, config: DispatcherConfig) -> None:
        super().__init__(app, access_log=None, shutdown_timeout=config.server.stop_grace)
        self._config = config

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(made, self._config)


class _Server(web.Server):
    def __init__(self, made: web.Server, config: DispatcherConfig) -> None:
        super().__init__(made.request_handler, request_factory=made.request_factory)
        self.most_connections = config.server.connections
        self.send_seconds = config.server.read_timeout
        self._new_connection = partial(
            _Connection,
            self,
            loop=asyncio.get_running_loop(),
            access_log=None,
            keepalive_timeout=config.server.keep_alive,
            max_line_size=config.limits.query + PATH_BYTES,
            max_field_size=config.limits.headers,
            # A body reaches its function as it was sent, packed or not.
            auto_decompress=False,
        )

    def __call__(self) -> RequestHandler:
        return self._new_connection()


class _Connection(RequestHandler):
    """One connection, which answers with problem documents where aiohttp would answer with plain text."""

    __slots__ = ("_server",)

    def __init__(self, server: _Server, **settings: Any) -> None:
        super().__init__(server, **settings)
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection, or turn it away where there are too many."""
        if len(self._server.connections) >= self._server.most_connections:
            if isinstance(transport, asyncio.Transport):
                transport.write(_TOO_MANY)
            transport.close()
            return
        super().connection_made(transport)

    async def finish_response(
        self, request: BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer, or what is left of one that was begun. A caller who does not read it is cut off."""
        if isinstance(resp, web.HTTPException):
            resp = problem.of_http(resp).response()
        try:
            async with asyncio.timeout(self._server.send_seconds):
                return await super().finish_response(request, resp, start_time)
        except TimeoutError:
            cut_off(self.transport)
            raise ConnectionResetError("the caller stopped reading") from None

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp's words are not for clients
    ) -> web.StreamResponse:
        """Answer what cannot be read as HTTP, and what went wrong outside the application."""
        if isinstance(exc, ConnectionError) or request.writer.output_size > 0:
            raise ConnectionResetError("nobody is there to be answered, or the answer has begun")
        if status == HTTPStatus.BAD_REQUEST:
            detail = _FAULTS.get(type(exc), "the request is not valid HTTP/1.1")
            log.debug("not a request", remote=request.remote, error=type(exc).__name__)
            error = Problem("INVALID", detail)
        else:
            log.error("request failed", exc_info=exc)
            error = Problem("INTERNAL", "the error was logged")
        response = error.response()
        response.force_close()
        return response


def cut_off(transport: asyncio.BaseTransport | None) -> None:
    """Reset a connection whose other side does not read: what is on its way is dropped, by the kernel too."""
    if isinstance(transport, asyncio.Transport):
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()


def _raw_answer(error: Problem) -> bytes:
    """Write out an answer for a connection that gets no more than this."""
    status = CODES[error.code].status
    body = problem.document(error.code, error.detail)
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        f"Content-Type: {problem.CONTENT_TYPE}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *(f"{name}: {value}" for name, value in error.headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


_TOO_MANY = _raw_answer(problem.unavailable("there are too many connections"))
