"""A registry on a loopback address that has one small image: enough of the registry's API for the engine to pull it."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import io
import json
import os
import socket
import tarfile
from typing import Self

from aiohttp import web

from agent.containers import probe_image

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _unlike_any_other(layer: bytes | None) -> bytes:
    """Put something random into a layer: the engine asks for it, and is not done before it can say how far it is."""
    assert layer is not None
    salted, salt = io.BytesIO(layer), os.urandom(2 * 1024 * 1024)
    with tarfile.open(fileobj=salted, mode="a") as archive:
        member = tarfile.TarInfo("salt")
        member.size = len(salt)
        archive.addfile(member, io.BytesIO(salt))
    return salted.getvalue()


class Registry:
    """Serves ``small:latest``; anything else is unknown.

    Attributes:
        pulls: How often the layer was asked for.
        asked: How often the manifest was asked for, or whether it is still the same.
        digest: Of its manifest.
        failures: So many further requests of the image are answered with 503.
        refuses: Status that requests of the image are answered with; 0: they are served.
        breaks: So many further requests of the layer break off in the middle.
        corrupt: The layer is not what its digest says.
        login: Name and password, colon between, that must be given for a token.
        open: While it is not set, layers are not served.
    """

    def __init__(self, arch: str, *, on: Registry | None = None) -> None:
        """Make an image.

        Args:
            on: One whose image this one begins with.
        """
        layer = _unlike_any_other(probe_image.layer(arch))
        compressed = gzip.compress(layer)
        below = on._layers if on is not None else {}
        self._layers: dict[str, bytes] = {**below, _digest(layer): compressed}
        config = json.dumps(
            {
                "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[arch],
                "os": "linux",
                "config": {"Cmd": [probe_image.PATH]},
                "rootfs": {"type": "layers", "diff_ids": list(self._layers)},
                "history": [{"created": "2020-01-01T00:00:00Z"}] * len(self._layers),
            }
        ).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "size": len(config),
                "digest": _digest(config),
            },
            "layers": [
                {
                    "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                    "size": len(each),
                    "digest": _digest(each),
                }
                for each in self._layers.values()
            ],
        }
        self.pulls = 0
        self.asked = 0
        self.failures = 0
        self.refuses = 0
        self.breaks = 0
        self.corrupt = False
        self.login = ""
        self.open = asyncio.Event()
        self.open.set()
        self._manifest = json.dumps(manifest).encode()
        self.digest = _digest(self._manifest)
        self._blobs = {_digest(each): each for each in (config, *self._layers.values())}
        self._layer = _digest(compressed)
        self._runner = web.AppRunner(self._app())
        self.port = 0
        self.address = ""
        self.image = ""

    def become(self, other: Registry) -> None:
        """Let the tag name the image of another."""
        self._manifest, self.digest = other._manifest, other.digest
        self._blobs, self._layer = other._blobs, other._layer

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = int(self._runner.addresses[0][1])
        self.address = f"127.0.0.1:{self.port}"
        self.image = f"{self.address}/small:latest"
        return self

    async def serve_on(self, listener: socket.socket) -> None:
        """Answer on another socket too, such as one in another network."""
        await web.SockSite(self._runner, listener).start()

    async def __aexit__(self, *_: object) -> None:
        self.open.set()
        await self._runner.cleanup()

    def _app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/v2/", self._ping)
        app.router.add_get("/token", self._token)
        app.router.add_get("/v2/{name}/manifests/{reference}", self._get_manifest)
        app.router.add_get("/v2/{name}/blobs/{digest}", self._get_blob)
        return app

    async def _ping(self, request: web.Request) -> web.Response:
        self._check(request)
        return web.json_response({})

    async def _token(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != "Basic " + base64.b64encode(self.login.encode()).decode():
            raise web.HTTPUnauthorized
        return web.json_response({"token": "let-in"})

    def _check(self, request: web.Request) -> None:
        if self.login and request.headers.get("Authorization") != "Bearer let-in":
            realm = f'Bearer realm="http://{self.address}/token",service="registry"'
            raise web.HTTPUnauthorized(headers={"WWW-Authenticate": realm})

    async def _get_manifest(self, request: web.Request) -> web.Response:
        self._check(request)
        self.asked += 1
        if self.refuses:
            codes = {401: "UNAUTHORIZED", 403: "DENIED", 404: "MANIFEST_UNKNOWN", 429: "TOOMANYREQUESTS"}
            error = {"code": codes.get(self.refuses, "UNKNOWN"), "message": "the registry's reason"}
            return web.json_response({"errors": [error]}, status=self.refuses)
        if self.failures:
            self.failures -= 1
            raise web.HTTPServiceUnavailable
        if request.match_info["name"] != "small":
            unknown = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
            return web.json_response(unknown, status=404)
        headers = {"Docker-Content-Digest": _digest(self._manifest), "Content-Type": _MANIFEST}
        return web.Response(body=self._manifest, headers=headers)

    async def _get_blob(self, request: web.Request) -> web.StreamResponse:
        digest = request.match_info["digest"]
        self._check(request)
        content = self._blobs[digest]
        if digest == self._layer:
            self.pulls += 1
            await self.open.wait()
            if self.breaks:
                self.breaks -= 1
                return await self._break_off(request, content)
            if self.corrupt:
                content = content[:-1] + bytes([content[-1] ^ 1])
        headers, begin = {"Docker-Content-Digest": digest}, request.http_range.start or 0
        if not begin:
            return web.Response(body=content, headers=headers)
        # Asked to go on after a break. Where it does not, the engine begins anew, but only after ten seconds more.
        headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        return web.Response(status=206, body=content[begin:], headers=headers)

    async def _break_off(self, request: web.Request, content: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(content))})
        await response.prepare(request)
        await response.write(content[: len(content) // 2])
        assert request.transport is not None
        request.transport.abort()
        return response
