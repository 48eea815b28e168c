"""What an image is made of, asked of its registry before it is fetched.

The engine pulls; this only reads the manifest, and the image's configuration. Whatever stands in the way of that is no
reason not to pull: the answer is then that nobody knows.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

import aiohttp
import msgspec
import structlog
from msgspec import Struct

from agent.containers.registry_login import HUB, registry_of
from agent.proxies import way_to

log = structlog.get_logger()

SECONDS = 5.0
"""For everything that is asked."""

_KINDS = (
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json"
    ", application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"
)
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_HUB_HOST = "registry-1.docker.io"


class Layer(Struct, frozen=True):
    """A layer of an image.

    Attributes:
        size: Bytes as they are sent.
        diff_id: Digest of what is in it, by which the engine knows it.
    """

    size: int
    diff_id: str


def bytes_missing(layers: Sequence[Layer], images: Iterable[Sequence[str]]) -> int:
    """Add up the layers of an image that are not here: an engine keeps those that another image begins with too.

    Args:
        images: The digests of the layers of each image that is here; see `Layer.diff_id`.
    """
    here = 0
    for image in images:
        same = takewhile(lambda pair: pair[0].diff_id == pair[1], zip(layers, image, strict=False))
        here = max(here, sum(1 for _ in same))
    return sum(layer.size for layer in layers[here:])


async def layers_of(reference: str, arch: str, login: Mapping[str, str]) -> list[Layer] | None:
    """List the layers of an image, the lowest first; None where its registry does not say it.

    Args:
        arch: The engine's, for an image of several.
        login: Name and password, if there are any: see `login_to`.
    """
    try:
        async with (
            asyncio.timeout(SECONDS),
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http,
        ):
            return await _Registry(http, reference, login).layers(_MACHINES.get(arch, arch))
    except (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError, msgspec.MsgspecError) as error:
        log.info("the size of an image is not known", image=reference, reason=type(error).__name__)
        return None


class _Registry:
    def __init__(self, http: aiohttp.ClientSession, reference: str, login: Mapping[str, str]) -> None:
        registry = registry_of(reference)
        path = reference if registry == HUB else reference.removeprefix(f"{registry}/")
        name, at, digest = path.partition("@")
        repository, _, tag = name.partition(":")
        if registry == HUB:
            repository = repository.removeprefix("docker.io/").removeprefix("index.docker.io/")
            repository = repository if "/" in repository else f"library/{repository}"
        host = _HUB_HOST if registry == HUB else registry
        # The engine, too, speaks to a registry on this machine without TLS.
        local = host.partition(":")[0] in {"localhost", "127.0.0.1"}
        self._http = http
        self._url = f"{'http' if local else 'https'}://{host}/v2/{repository}"
        self._reference = digest if at else tag or "latest"
        self._login = login
        self._headers = {"Accept": _KINDS}

    async def layers(self, machine: str) -> list[Layer] | None:
        manifest = await self._document(f"manifests/{self._reference}")
        if "manifests" in manifest:
            ours = [
                each["digest"]
                for each in manifest["manifests"]
                if each.get("platform", {}).get("architecture") == machine and each["platform"].get("os") == "linux"
            ]
            if not ours:
                return None
            manifest = await self._document(f"manifests/{ours[0]}")
        config = await self._document(f"blobs/{manifest['config']['digest']}")
        pairs = zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True)
        return [Layer(int(layer["size"]), str(diff_id)) for layer, diff_id in pairs]

    async def _document(self, path: str) -> dict[str, Any]:
        for _ in range(2):
            url = f"{self._url}/{path}"
            async with self._http.get(url, headers=self._headers, **way_to(url)) as response:
                if response.status == 401 and "Authorization" not in self._headers:
                    self._headers["Authorization"] = await self._authorize(response.headers["WWW-Authenticate"])
                    continue
                response.raise_for_status()
                return msgspec.json.decode(await response.read(), type=dict[str, Any])
        raise ValueError("the registry wants to know us better")

    async def _authorize(self, challenge: str) -> str:
        user, password = self._login.get("username", ""), self._login.get("password", "")
        basic = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        if not challenge.lower().startswith("bearer"):
            return basic
        asked = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        realm = asked.pop("realm")
        headers = {"Authorization": basic} if user else {}
        async with self._http.get(realm, params=asked, headers=headers, **way_to(realm)) as response:
            response.raise_for_status()
            answer = msgspec.json.decode(await response.read(), type=dict[str, Any])
        return f"Bearer {answer.get('token') or answer['access_token']}"
