"""The Docker Engine: the one place that speaks to it.

Every call has a time limit, so a hung engine costs a caller its limit and nobody else anything. What the engine
answers becomes frozen values here, and what it refuses becomes one of three exceptions.

Nothing waits for a container. Its output comes over an attached socket, and the end of that stream is the sign to look
whether the container ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from agent.calls import Calls
from agent.containers.engine_http import EngineHttp, address_of, segment
from agent.containers.engine_log import Logged
from agent.containers.engine_values import (
    EngineError,
    EngineUnavailable,
    Facts,
    Image,
    Inspection,
    Listed,
    NotAsked,
    NotFound,
    failure_of,
    inspection_of,
    seconds_of,
)
from agent.containers.own_container import candidates
from agent.containers.registry_login import login_for

__all__ = [
    "Attachment",
    "Engine",
    "EngineError",
    "EngineUnavailable",
    "Facts",
    "Image",
    "Inspection",
    "Listed",
    "Logged",
    "NotAsked",
    "NotFound",
]

CALL_SECONDS = 30.0
"""Time limit of a call that has none of its own."""

START_SECONDS = 60.0
"""Time limit of creating or starting a container: slow disks take long."""

SIGNAL_SECONDS = 5.0
"""Time limit of a signal, which the kill follows anyway."""

NOTED_SECONDS = 0.2
"""Of the end of a container the engine keeps a note so much later at most."""


class Attachment:
    """The standard streams of a container, as frames; see `output.Demultiplexer`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def close(self) -> None:
        """Let go of the streams at once. The container goes on.

        What was not written yet is dropped: a function that does not read its input would keep the
        connection open, and an engine that cannot write to it does not remove the container.
        """
        self.writer.transport.abort()


class Engine:
    """The engine that ``DOCKER_HOST`` names, or the one at Docker's usual socket.

    Attributes:
        in_doubt: Set when a call found that the engine does not answer, for whoever watches over it.
        live_restore: Containers go on while the engine is restarted.
        arch: As the kernel names it; empty before `connect`.
        root: Directory of its images, on its own machine; empty before `connect`.
        call_figures: How long calls take, and how many fail.
    """

    def __init__(self) -> None:
        self.in_doubt = asyncio.Event()
        self.live_restore = False
        self.root = ""
        self.arch = ""
        self.call_figures = Calls(failure_of, "refused", "away")
        self._http: EngineHttp | None = None
        self._own_container = ""

    async def connect(self) -> Facts:
        """Find the engine and learn what it is.

        Raises:
            EngineUnavailable: There is none, it may not be used, or it runs no Linux containers.
        """
        address = address_of(os.environ)
        if self._http is None:
            self._http = EngineHttp(address, self.in_doubt, self.call_figures)
        await self._http.ask_version(START_SECONDS)
        info = await self._call("GET", "/info")
        self.live_restore = bool(info.get("LiveRestoreEnabled"))
        self.root = info.get("DockerRootDir") or ""
        self.arch = info["Architecture"]
        if info["OSType"] != "linux":
            raise EngineUnavailable(f"the engine runs {info['OSType']} containers, and fernd needs Linux ones")
        return Facts(
            version=info["ServerVersion"],
            arch=info["Architecture"],
            system=info["OperatingSystem"],
            cgroup=int(info.get("CgroupVersion") or 1),
            cpus=info["NCPU"],
            runtimes=tuple(info.get("Runtimes") or ()),
            default_runtime=info.get("DefaultRuntime") or "",
            root=info.get("DockerRootDir") or "",
            limits={
                "cpu": bool(info.get("CpuCfsQuota")),
                "memory": bool(info.get("MemoryLimit")),
                "processes": bool(info.get("PidsLimit")),
            },
        )

    async def now(self) -> float:
        """Give the time of the engine's own clock in epoch seconds."""
        return seconds_of((await self._call("GET", "/info"))["SystemTime"])

    async def close(self) -> None:
        """Let go of the connections."""
        if self._http is not None:
            await self._http.close()

    # images

    async def image(self, reference: str) -> Image:
        """Look at an image that is present.

        Raises:
            NotFound: It is not.
        """
        found = await self._call("GET", f"/images/{segment(reference)}/json")
        config = found.get("Config") or {}
        return Image(found["Id"], config.get("User") or "", tuple(config.get("Volumes") or ()))

    async def images(self) -> list[str]:
        """List the references, by tag and by digest, of the images that are present."""
        found = await self._call("GET", "/images/json")
        references = {
            reference
            for image in found
            for reference in [*(image.get("RepoTags") or ()), *(image.get("RepoDigests") or ())]
            if "<none>" not in reference
        }
        return sorted(references)

    async def layers(self) -> list[list[str]]:
        """List the digests of the layers of each image that is present, the lowest first."""
        found: list[list[str]] = []
        for each in await self._call("GET", "/images/json"):
            with contextlib.suppress(NotFound):
                image = await self._call("GET", f"/images/{segment(each['Id'])}/json")
                found.append((image.get("RootFS") or {}).get("Layers") or [])
        return found

    async def pull(
        self, reference: str, progress: Callable[[int, int], None], *, stall: float, credentials: Path | None = None
    ) -> None:
        """Pull an image, with the login that there is for its registry. Cancelled, the engine stops it.

        Args:
            progress: Called with the bytes pulled so far and in all.
            stall: Seconds without a word after which it is given up.
            credentials: File with logins; see `login_for`.

        Raises:
            EngineError: The engine or the registry refused, or nothing came for so long.
            EngineUnavailable: The engine went away.
        """
        repository, tag = _split_reference(reference)
        query = {"fromImage": repository, "tag": tag}
        headers = await login_for(reference, credentials)
        silent = EngineError(0, f"nothing came for {stall:g} s")
        try:
            async with asyncio.timeout(stall):  # for the registry; the engine itself may take what any call may
                response = await self._given.open(
                    "POST", "/images/create", query, headers=headers, limit=stall + CALL_SECONDS, stall=stall
                )
        except TimeoutError:
            raise silent from None
        layers: dict[str, tuple[int, int]] = {}
        try:
            async for text in response.content:
                line = msgspec.json.decode(text)
                if "error" in line:
                    raise EngineError(0, str(line["error"]))
                if _count_layer(line, layers):
                    done, total = (sum(column) for column in zip(*layers.values(), strict=True))
                    progress(done, total)
        except TimeoutError:
            raise silent from None
        except (aiohttp.ClientError, OSError) as error:
            raise EngineUnavailable(f"the pull broke off: {error}") from None
        finally:
            response.close()

    async def import_image(self, layer: bytes, repository: str, tag: str) -> None:
        """Make an image of one layer.

        Args:
            layer: A tar archive.
        """
        query = {"fromSrc": "-", "repo": repository, "tag": tag}
        for line in await self._given.lines("POST", "/images/create", query, layer, limit=CALL_SECONDS):
            if "error" in line:
                raise EngineError(0, str(line["error"]))

    async def images_in_use(self) -> set[str]:
        """Give the ids of all images that a container is made of, whosever it is and whether it runs or not."""
        return {str(each["ImageID"]) for each in await self._call("GET", "/containers/json", {"all": "1"})}

    async def remove_image(self, reference: str, *, force: bool = True) -> None:
        """Remove an image, if it is there; one that has another name too loses this one.

        Args:
            force: Also one that a container which has ended is made of.
        """
        with contextlib.suppress(NotFound):
            await self._call("DELETE", f"/images/{segment(reference)}", {"force": str(int(force))})

    # containers

    async def create(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Create a container and give its id.

        Args:
            arguments: The body of the API's call; see `spec.arguments`.
        """
        made = await self._call("POST", "/containers/create", {"name": name}, arguments, limit=START_SECONDS)
        return str(made["Id"])

    async def attach(self, container: str, stdin: bool = False) -> Attachment:
        """Take hold of a container's streams. Before `start`, so that nothing is lost."""
        streams = {"stdin": str(int(stdin)), "stdout": "1", "stderr": "1", "stream": "1"}
        return Attachment(*await self._given.hijack(f"/containers/{container}/attach", streams, CALL_SECONDS))

    async def logged(self, container: str, follow: bool) -> Logged:
        """Read what a container wrote from its beginning.

        Each entry has a blank before it, which shows the empty ones too: see `streams.FromLog`.

        Args:
            follow: Go on with what it writes, until it ends.

        Raises:
            NotFound: It is gone.
        """
        query = {"stdout": "1", "stderr": "1", "follow": str(int(follow)), "details": "1"}
        path = f"/containers/{container}/logs"
        return Logged(await self._given.open("GET", path, query, headers={}, limit=CALL_SECONDS, stall=0))

    async def start(self, container: str) -> None:
        """Start a container that was created."""
        await self._call("POST", f"/containers/{container}/start", limit=START_SECONDS)

    async def inspect(self, container: str) -> Inspection:
        """Look at a container.

        Raises:
            NotFound: It is gone.
        """
        return inspection_of(await self._call("GET", f"/containers/{container}/json"))

    async def kill(self, container: str, signal: str) -> None:
        """Send a signal to a container that runs; one that ended is passed over."""
        with contextlib.suppress(EngineError):
            query = {"signal": signal}
            await self._given.call("POST", f"/containers/{container}/kill", query, limit=SIGNAL_SECONDS, urgent=True)

    async def pause(self, container: str) -> None:
        """Freeze a container."""
        await self._call("POST", f"/containers/{container}/pause")

    async def unpause(self, container: str) -> None:
        """Let a frozen container go on."""
        await self._call("POST", f"/containers/{container}/unpause")

    async def remove(self, container: str) -> None:
        """Remove a container with its anonymous volumes, running or not, if it is there."""
        try:
            await self._call("DELETE", f"/containers/{container}", {"v": "1", "force": "1"})
        except NotFound:
            pass
        except EngineError as error:
            if error.status != 409:  # somebody else's removal of it is under way
                raise

    async def containers(self, label: str) -> list[Listed]:
        """List all containers with a label, given as ``name=value``, whether they run or not."""
        found = await self._call("GET", "/containers/json", {"all": "1", **_filters(label=[label])})
        return [
            Listed(each["Id"], each["Names"][0].lstrip("/"), dict(each["Labels"] or {}), float(each["Created"]))
            for each in found
        ]

    async def signals(self, container: str) -> int | None:
        """Count the signals that were sent to a container through the engine, by whomever.

        None where the engine does not remember the container's start: it was restarted since, or has
        forgotten it, for it keeps its last 256 events only.
        """
        seen = await self._seen(container, "start", "kill")
        return seen.count("kill") if "start" in seen else None

    async def remembers(self, container: str) -> bool:
        """Say whether the engine that answers now has surely been there since a container was started."""
        return await self.signals(container) is not None

    async def saw_end(self, container: str) -> bool:
        """Say whether the engine that answers now was there when a container ended, and so kept all that it wrote."""
        if "die" in await self._seen(container, "die"):
            return True
        await asyncio.sleep(NOTED_SECONDS)
        return "die" in await self._seen(container, "die")

    @contextlib.asynccontextmanager
    async def anew(self) -> AsyncIterator[Engine]:
        """Speak to the engine over new connections for a while.

        Raises:
            EngineUnavailable: It takes none.
        """
        engine = Engine()
        try:
            await engine.connect()
            yield engine
        finally:
            await engine.close()

    async def _seen(self, container: str, *events: str) -> list[str]:
        """List what the engine remembers to have seen of a container."""
        # Until now by the engine's clock: a moment that has not come for it would be waited for.
        until = f"{await self.now():.3f}"
        asked = {"since": "1", "until": until, **_filters(container=[container], event=list(events))}
        lines = await self._given.lines("GET", "/events", asked, limit=CALL_SECONDS)
        return [event["Action"] for event in lines]

    # networks

    async def ensure_network(
        self, name: str, *, internal: bool, options: Mapping[str, str], labels: Mapping[str, str]
    ) -> None:
        """Create a bridge network without IPv6, whatever the engine's default is, unless there is one of that name."""
        if not await self._call("GET", "/networks", _filters(name=[f"^{re.escape(name)}$"])):
            content = {
                "Name": name,
                "Driver": "bridge",
                "Internal": internal,
                "EnableIPv6": False,
                "Options": options,
                "Labels": labels,
            }
            await self._call("POST", "/networks/create", content=content)

    async def find_own_container(self) -> bool:
        """See whether this process runs in a container of this engine, with a network of its own.

        From then on `join_network` can be used.
        """
        for candidate in await asyncio.to_thread(candidates):
            try:
                found = await self.inspect(candidate)
            except NotFound:
                continue
            if found.network != "host":
                self._own_container = found.id
                return True
        return False

    async def join_network(self, name: str) -> None:
        """Put the container that this process runs in on a network, besides those that it is on."""
        try:
            await self._call("POST", f"/networks/{name}/connect", content={"Container": self._own_container})
        except EngineError as error:
            if "already exists" not in error.message:
                raise

    async def remove_network(self, name: str) -> bool:
        """Remove a network; False where there was none."""
        if self._own_container:
            with contextlib.suppress(EngineError):  # it is not on it
                content = {"Container": self._own_container, "Force": True}
                await self._call("POST", f"/networks/{name}/disconnect", content=content)
        try:
            await self._call("DELETE", f"/networks/{name}")
        except NotFound:
            return False
        return True

    async def networks(self, label: str) -> list[Listed]:
        """List all networks with a label, given as ``name=value``."""
        found = await self._call("GET", "/networks", _filters(label=[label]))
        return [
            Listed(each["Id"], each["Name"], dict(each["Labels"] or {}), seconds_of(each["Created"])) for each in found
        ]

    # volumes

    async def volumes(self, label: str) -> list[Listed]:
        """List all volumes with a label, given as ``name=value``."""
        found = await self._call("GET", "/volumes", _filters(label=[label]))
        return [
            Listed(each["Name"], each["Name"], dict(each["Labels"] or {}), seconds_of(each.get("CreatedAt") or ""))
            for each in found["Volumes"] or ()
        ]

    async def remove_volume(self, name: str) -> None:
        """Remove a volume, if it is there."""
        with contextlib.suppress(NotFound):
            await self._call("DELETE", f"/volumes/{name}")

    # calls

    @property
    def _given(self) -> EngineHttp:
        if self._http is None:
            raise EngineUnavailable("the engine was not connected to")
        return self._http

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        content: object = None,
        limit: float | None = None,
    ) -> Any:
        return await self._given.call(method, path, query, content, limit=limit or CALL_SECONDS)


def _filters(**filters: list[str]) -> dict[str, str]:
    return {"filters": msgspec.json.encode(filters).decode()}


def _split_reference(reference: str) -> tuple[str, str]:
    """Split an image reference as the pull call wants it; without a tag it would pull every tag."""
    repository, at, digest = reference.partition("@")
    if at:
        return repository, digest
    head, slash, last = reference.rpartition("/")
    name, _, tag = last.partition(":")
    return head + slash + name, tag or "latest"


def _count_layer(line: Mapping[str, Any], layers: dict[str, tuple[int, int]]) -> bool:
    """Keep what a line of a pull says of a layer's bytes; True if it said something."""
    detail, layer = line.get("progressDetail") or {}, str(line.get("id"))
    if line.get("status") == "Downloading" and "total" in detail:
        layers[layer] = (int(detail.get("current", 0)), int(detail["total"]))
    elif line.get("status") in {"Download complete", "Pull complete"} and layer in layers:
        layers[layer] = (layers[layer][1], layers[layer][1])
    else:
        return False
    return True
