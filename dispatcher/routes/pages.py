"""The dashboard's files, and what a browser may do with them.

The page at ``/`` is asked for anew each time and names the other files under a path with a hash of all
of them. So those can be kept for ever, and a browser never mixes the files of two versions.
"""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from importlib.resources import files

from aiohttp import hdrs, web
from msgspec import Struct

from dispatcher.problem import not_found

PAGE = "index.html"
VERSION = b"{version}"
"""Stands in the page where the hash goes."""

TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}

FOR_EVER = "public, max-age=31536000, immutable"

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Trusted types: no script of ours makes markup of text, and so nothing that a function wrote can become any."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class _File(Struct, frozen=True):
    """A file as it is sent."""

    content: bytes
    packed: bytes
    content_type: str
    tag: str


class _Files(Struct, frozen=True):
    """All files, by name, and the hash that changes when one of them does."""

    by_name: dict[str, _File]
    version: str


async def show_page(request: web.Request) -> web.StreamResponse:
    """Give the dashboard's page."""
    return _answer(request, _files().by_name[PAGE], "no-cache")


async def show_file(request: web.Request) -> web.StreamResponse:
    """Give a file that the dashboard's page names."""
    found = _files()
    file = found.by_name.get(request.match_info["file"])
    if file is None or request.match_info["version"] != found.version:
        raise not_found("file")
    return _answer(request, file, FOR_EVER)


def _answer(request: web.Request, file: _File, caching: str) -> web.Response:
    packs = "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, "")
    # The two forms are different bytes, and so have different tags.
    tag = f'"{file.tag}{"-gzip" if packs else ""}"'
    headers = HEADERS | {"Cache-Control": caching, "ETag": tag, "Vary": hdrs.ACCEPT_ENCODING}
    if tag in {known.strip().removeprefix("W/") for known in request.headers.get(hdrs.IF_NONE_MATCH, "").split(",")}:
        return web.Response(status=304, headers=headers)
    if packs:
        headers["Content-Encoding"] = "gzip"
    body = file.packed if packs else file.content
    return web.Response(body=body, content_type=file.content_type, charset="utf-8", headers=headers)


@cache
def _files() -> _Files:
    """Read the files. They are part of the program and do not change while it runs."""
    contents = {
        file.name: file.read_bytes()
        for file in files("dispatcher.dashboard").iterdir()
        if file.name.rpartition(".")[2] in TYPES
    }
    digest = hashlib.sha256()
    for name in sorted(contents):
        digest.update(name.encode() + b"\0" + contents[name] + b"\0")
    version = digest.hexdigest()[:16]
    contents[PAGE] = contents[PAGE].replace(VERSION, version.encode())
    return _Files({name: _file(name, content) for name, content in contents.items()}, version)


def _file(name: str, content: bytes) -> _File:
    return _File(
        content=content,
        packed=gzip.compress(content, 9, mtime=0),
        content_type=TYPES[name.rpartition(".")[2]],
        tag=hashlib.sha256(content).hexdigest()[:16],
    )
