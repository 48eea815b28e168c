"""The Docker Engine: the one place that speaks to it.

Every call runs in a small bounded pool of threads and has a time limit, so a hung engine costs a
caller its limit and nobody else anything. What the engine answers becomes frozen values here, and what it
refuses becomes one of three exceptions: nothing else of the docker library leaves this module.

No thread waits for a container. Its output comes over an attached socket that asyncio reads, and the
end of that stream is the sign to look whether the container ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, TypeVar

import docker
import docker.errors
import docker.utils
import requests

from agent.containers.engine_log import Logged
from agent.containers.engine_values import EngineError, EngineUnavailable, Facts, Image, Inspection, Listed, NotFound

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
    "NotFound",
    "Pull",
]

CALL_SECONDS = 30.0
"""Time limit of a call that has none of its own."""

START_SECONDS = 60.0
"""Time limit of creating or starting a container: slow disks take long."""

SIGNAL_SECONDS = 5.0
"""Time limit of a signal, which the kill follows anyway."""

STALL_SECONDS = 60.0
"""A pull that says nothing for so long is given up."""

THREADS = 8
URGENT_THREADS = 2
"""For signals, which must not wait behind slow starts."""

PULLS = 3

T = TypeVar("T")


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


class Pull:
    """A pull under way, which may be told to stop."""

    def __init__(self) -> None:
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Make the pull end soon, with `EngineUnavailable`."""
        self._stopped.set()

    @property
    def stopped(self) -> bool:
        """Whether it was told to stop."""
        return self._stopped.is_set()


class Engine:
    """The engine that ``DOCKER_HOST`` names, or the one at Docker's usual socket.

    Attributes:
        in_doubt: Set when a call found that the engine does not answer, for whoever watches over it.
        live_restore: Containers go on while the engine is restarted.
    """

    def __init__(self) -> None:
        self.in_doubt = asyncio.Event()
        self.live_restore = False
        self._address = ""
        self._threads = ThreadPoolExecutor(THREADS, "engine")
        self._urgent = ThreadPoolExecutor(URGENT_THREADS, "engine-urgent")
        self._pulls = ThreadPoolExecutor(PULLS, "engine-pull")
        self._client: docker.APIClient | None = None
        self._pull_client: docker.APIClient | None = None

    async def connect(self) -> Facts:
        """Find the engine and learn what it is.

        Raises:
            EngineUnavailable: There is none, it may not be used, or it runs no Linux containers.
        """
        where = docker.utils.kwargs_from_env()
        if where.get("tls") or not str(where.get("base_url", "unix://")).startswith(("unix://", "tcp://")):
            raise EngineUnavailable("DOCKER_HOST must name a unix socket or a plain TCP address of a local engine")

        self._address = str(where.get("base_url") or "unix:///var/run/docker.sock")

        def connect() -> dict[str, Any]:
            self._close_clients()
            self._client = docker.APIClient(**where, version="auto", timeout=int(START_SECONDS), num_pools=THREADS)
            self._pull_client = docker.APIClient(
                **where, version=self._client.api_version, timeout=int(STALL_SECONDS), num_pools=PULLS
            )
            return dict(self._client.info())

        info = await self._in_thread(connect)
        self.live_restore = bool(info.get("LiveRestoreEnabled"))
        if info["OSType"] != "linux":
            raise EngineUnavailable(f"the engine runs {info['OSType']} containers, and fernd needs Linux ones")
        return Facts(
            version=info["ServerVersion"],
            arch=info["Architecture"],
            system=info["OperatingSystem"],
            cgroup=int(info.get("CgroupVersion") or 1),
            cpus=info["NCPU"],
            runtimes=tuple(info.get("Runtimes") or ()),
        )

    async def now(self) -> float:
        """Give the time of the engine's own clock in epoch seconds."""
        return _seconds((await self._call(lambda client: client.info()))["SystemTime"])

    async def close(self) -> None:
        """Let go of the connections. Calls under way end by their own limits."""
        for threads in (self._threads, self._urgent, self._pulls):
            threads.shutdown(wait=False, cancel_futures=True)
        self._close_clients()

    # images

    async def image(self, reference: str) -> Image:
        """Look at an image that is present.

        Raises:
            NotFound: It is not.
        """
        found = await self._call(lambda client: client.inspect_image(reference))  # type: ignore[no-untyped-call]
        config = found.get("Config") or {}
        return Image(found["Id"], config.get("User") or "", tuple(config.get("Volumes") or ()))

    async def images(self) -> list[str]:
        """List the references, by tag and by digest, of the images that are present."""
        found = await self._call(lambda client: client.images())
        references = {
            reference
            for image in found
            for reference in [*(image.get("RepoTags") or ()), *(image.get("RepoDigests") or ())]
            if "<none>" not in reference
        }
        return sorted(references)

    async def pull(self, reference: str, pull: Pull, progress: Callable[[int, int], None]) -> None:
        """Pull an image.

        Args:
            progress: Called with the bytes pulled so far and in all.

        Raises:
            EngineError: The engine or the registry refused.
            EngineUnavailable: Nothing came for `STALL_SECONDS`, or the pull was stopped.
        """
        repository, tag = _split_reference(reference)
        loop = asyncio.get_running_loop()

        def run() -> None:
            layers: dict[str, tuple[int, int]] = {}
            client = _given(self._pull_client)
            with contextlib.closing(client.pull(repository, tag, stream=True, decode=True)) as lines:
                for line in lines:
                    if pull.stopped:
                        raise EngineUnavailable("the pull was stopped")
                    if "error" in line:
                        raise EngineError(0, str(line["error"]))
                    if _count_layer(line, layers):
                        done, total = (sum(column) for column in zip(*layers.values(), strict=True))
                        loop.call_soon_threadsafe(progress, done, total)

        try:
            await self._in_thread(run, threads=self._pulls, limit=None)
        except asyncio.CancelledError:
            pull.stop()
            raise

    async def import_image(self, layer: bytes, repository: str, tag: str) -> None:
        """Make an image of one layer.

        Args:
            layer: A tar archive.
        """

        def run(client: docker.APIClient) -> None:
            answer = client.import_image_from_data(layer, repository=repository, tag=tag)
            last = json.loads(answer.strip().splitlines()[-1])
            if "error" in last:
                raise EngineError(0, str(last["error"]))

        await self._call(run)

    async def remove_image(self, reference: str) -> None:
        """Remove an image, if it is there."""
        with contextlib.suppress(NotFound):
            await self._call(lambda client: client.remove_image(reference, force=True))

    # containers

    async def create(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Create a container and give its id.

        Args:
            arguments: The body of the API's call; see `spec.arguments`.
        """

        def run(client: docker.APIClient) -> str:
            return str(client.create_container_from_config(dict(arguments), name)["Id"])  # type: ignore[no-untyped-call]

        return await self._call(run, limit=START_SECONDS)

    async def attach(self, container: str, stdin: bool = False) -> Attachment:
        """Take hold of a container's streams. Before `start`, so that nothing is lost."""
        wanted = True

        def run(client: docker.APIClient) -> socket.socket:
            streams = {"stdin": int(stdin), "stdout": 1, "stderr": 1, "stream": 1}
            hijacked: Any = client.attach_socket(container, params=streams)
            # The socket belongs to a response of the library, which would close it. It is ours from now on.
            raw = socket.socket(fileno=hijacked._sock.detach())  # noqa: SLF001
            hijacked._response.close()  # noqa: SLF001
            if not wanted:
                raw.close()
            return raw

        try:
            raw = await self._call(run)
        except BaseException:
            wanted = False
            raise
        raw.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=raw, limit=64 * 1024)
        return Attachment(reader, writer)

    async def logged(self, container: str, follow: bool) -> Logged:
        """Read what a container wrote from its beginning.

        Each entry has a blank before it, which shows the empty ones too: see `streams.FromLog`.

        Args:
            follow: Go on with what it writes, until it ends.

        Raises:
            NotFound: It is gone.
        """
        try:
            return await Logged.open(self._address, _given(self._client).api_version, container, follow)
        except EngineUnavailable:
            self.in_doubt.set()
            raise

    async def start(self, container: str) -> None:
        """Start a container that was created."""
        await self._call(lambda client: client.start(container), limit=START_SECONDS)

    async def inspect(self, container: str) -> Inspection:
        """Look at a container.

        Raises:
            NotFound: It is gone.
        """
        return _inspection(await self._call(lambda client: client.inspect_container(container)))

    async def kill(self, container: str, signal: str) -> None:
        """Send a signal to a container that runs; one that ended is passed over."""
        with contextlib.suppress(EngineError):
            client = _given(self._client)
            await self._in_thread(lambda: client.kill(container, signal), self._urgent, SIGNAL_SECONDS)

    async def pause(self, container: str) -> None:
        """Freeze a container."""
        await self._call(lambda client: client.pause(container))

    async def unpause(self, container: str) -> None:
        """Let a frozen container go on."""
        await self._call(lambda client: client.unpause(container))

    async def remove(self, container: str) -> None:
        """Remove a container with its anonymous volumes, running or not, if it is there."""
        try:
            await self._call(lambda client: client.remove_container(container, v=True, force=True))
        except NotFound:
            pass
        except EngineError as error:
            if error.status != 409:  # somebody else's removal of it is under way
                raise

    async def containers(self, label: str) -> list[Listed]:
        """List all containers with a label, given as ``name=value``, whether they run or not."""
        found = await self._call(lambda client: client.containers(all=True, filters={"label": [label]}))
        return [
            Listed(each["Id"], each["Names"][0].lstrip("/"), dict(each["Labels"] or {}), float(each["Created"]))
            for each in found
        ]

    async def signals(self, container: str) -> int | None:
        """Count the signals that were sent to a container through the engine, by whomever.

        None where the engine does not remember the container's start: it was restarted since, or has
        forgotten it, for it keeps its last 256 events only.
        """

        def run(client: docker.APIClient) -> int | None:
            # Fractions of a second count, which the library's types do not know.
            # By the engine's clock: a moment that has not come for it would be waited for.
            now: Any = f"{_seconds(client.info()['SystemTime']):.3f}"
            filters = {"container": [container], "event": ["start", "kill"]}
            seen = [event["Action"] for event in client.events(since=1, until=now, filters=filters, decode=True)]
            return seen.count("kill") if "start" in seen else None

        return await self._call(run)

    async def remembers(self, container: str) -> bool:
        """Say whether the engine that answers now has surely been there since a container was started."""
        return await self.signals(container) is not None

    # networks

    async def ensure_network(self, name: str, arguments: Mapping[str, Any]) -> None:
        """Create a bridge network unless there is one of that name."""
        if not await self._call(lambda client: client.networks(names=[f"^{re.escape(name)}$"])):
            await self._call(lambda client: client.create_network(name, driver="bridge", **arguments))

    async def remove_network(self, name: str) -> bool:
        """Remove a network; False where there was none."""
        try:
            await self._call(lambda client: client.remove_network(name))
        except NotFound:
            return False
        return True

    async def networks(self, label: str) -> list[Listed]:
        """List all networks with a label, given as ``name=value``."""
        found = await self._call(lambda client: client.networks(filters={"label": [label]}))
        return [
            Listed(each["Id"], each["Name"], dict(each["Labels"] or {}), _seconds(each["Created"])) for each in found
        ]

    # volumes

    async def volumes(self, label: str) -> list[Listed]:
        """List all volumes with a label, given as ``name=value``."""
        found = await self._call(lambda client: client.volumes(filters={"label": [label]}))
        return [
            Listed(each["Name"], each["Name"], dict(each["Labels"] or {}), _seconds(each.get("CreatedAt") or ""))
            for each in found["Volumes"] or ()
        ]

    async def remove_volume(self, name: str) -> None:
        """Remove a volume, if it is there."""
        with contextlib.suppress(NotFound):
            await self._call(lambda client: client.remove_volume(name))

    # calls

    def _close_clients(self) -> None:
        for client in (self._client, self._pull_client):
            if client is not None:
                client.close()

    async def _call(self, call: Callable[[docker.APIClient], T], limit: float = CALL_SECONDS) -> T:
        return await self._in_thread(lambda: call(_given(self._client)), limit=limit)

    async def _in_thread(
        self, call: Callable[[], T], threads: ThreadPoolExecutor | None = None, limit: float | None = CALL_SECONDS
    ) -> T:
        def run() -> T:
            with _typed_errors():
                return call()

        try:
            async with asyncio.timeout(limit):
                return await asyncio.get_running_loop().run_in_executor(threads or self._threads, run)
        except TimeoutError:
            self.in_doubt.set()
            raise EngineUnavailable(f"the engine did not answer within {limit:g} s") from None
        except EngineUnavailable:
            self.in_doubt.set()
            raise


@contextlib.contextmanager
def _typed_errors() -> Iterator[None]:
    """Turn the library's exceptions into ours."""
    try:
        yield
    except docker.errors.NotFound as error:
        raise NotFound(404, str(error.explanation)) from None
    except docker.errors.APIError as error:
        status = error.status_code or 0
        if status in {502, 503, 504}:
            raise EngineUnavailable(f"the engine answered {status}") from None
        raise EngineError(status, str(error.explanation)) from None
    except docker.errors.DockerException as error:
        raise EngineUnavailable(f"no Docker Engine can be used: {error}") from None
    except (requests.RequestException, OSError) as error:
        raise EngineUnavailable(f"the Docker Engine does not answer: {error}") from None


def _given(client: docker.APIClient | None) -> docker.APIClient:
    if client is None:
        raise EngineUnavailable("the engine was not connected to")
    return client


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


def _seconds(text: str) -> float:
    """Read a time as the engine writes it, with up to nine digits after the point; 0 where it stands for none."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)", text)
    if match is None or text.startswith("0001"):
        return 0.0
    return datetime.fromisoformat(match[1] + match[3].replace("Z", "+00:00")).timestamp() + float(match[2] or 0)


def _inspection(found: Mapping[str, Any]) -> Inspection:
    state, host = found["State"], found["HostConfig"]
    settings = found.get("NetworkSettings") or {}
    return Inspection(
        id=found["Id"],
        name=found["Name"].lstrip("/"),
        running=state["Running"],
        paused=state["Paused"],
        exit_code=state["ExitCode"],
        oom_killed=state["OOMKilled"],
        pid=state["Pid"],
        addresses={
            name: network["IPAddress"]
            for name, network in (settings.get("Networks") or {}).items()
            if network.get("IPAddress")
        },
        ports={
            int(inside.partition("/")[0]): int(outside[0]["HostPort"])
            for inside, outside in (settings.get("Ports") or {}).items()
            if outside
        },
        labels=dict(found["Config"].get("Labels") or {}),
        image=found["Config"]["Image"],
        memory=(host.get("Memory") or 0) // (1024 * 1024),
        network=host["NetworkMode"],
        runtime=host.get("Runtime") or "",
        privileged=bool(host.get("Privileged")),
        started=_seconds(state["StartedAt"]),
        finished=_seconds(state["FinishedAt"]) if not state["Running"] else 0.0,
    )
