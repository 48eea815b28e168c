"""How the agent speaks to a server inside a container.

Four ways, the best first:

- ``namespace``: the container has no network at all; the agent opens its socket inside the container's network
  namespace. Needs CAP_SYS_ADMIN and the ``/proc`` of the engine's machine.
- ``bridge``: an internal network of this node, without traffic between containers. Needs a route to it, so an engine on
  the same Linux machine. The server must listen on all addresses, not on 127.0.0.1 only.
- ``attached``: for an agent that is in a container itself and sees nothing of the machine: an internal network for each
  function's container, with nobody else on it but the agent's own. It costs a start about a third of a second more,
  and an engine has some thirty networks to give.
- ``published``: a port published on 127.0.0.1, on a network without a way out. Works everywhere, Docker Desktop too.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import os
import socket
import threading
from pathlib import Path
from typing import Literal

from agent.containers.engine import Inspection
from agent.containers.networks import Networks
from agent.containers.spec import PORT
from agent.protocol import Mode, Network

Way = Literal["namespace", "bridge", "attached", "published"]

WAYS: tuple[Way, ...] = ("namespace", "bridge", "attached", "published")

_CLONE_NEWNET = 0x40000000
_CONNECT_SECONDS = 1.0
_PROXY_SECONDS = 0.1

_FIRST_LOOK = 0.001
_SLOWEST_LOOK = 0.05
_LATER = 0.02
"""Of the time that was waited, looks may come so much too late."""


class Unreachable(Exception):
    """There is no way to a container."""


class Door:
    """Where the server of one container is spoken to.

    Attributes:
        host: Address to connect to.
        port: Port to connect to.
        proxied: Something of the engine accepts connections before the server does.
    """

    def __init__(self, host: str, port: int, namespace: int | None = None, proxied: bool = False) -> None:
        """Make a door.

        Args:
            namespace: Descriptor of the network namespace to connect in, which belongs to the door from now on.
        """
        self.host = host
        self.port = port
        self._namespace = namespace
        self.proxied = proxied

    async def socket(self) -> socket.socket:
        """Make a socket, not connected yet, from which the server can be reached.

        Raises:
            OSError: The namespace cannot be entered.
        """
        if self._namespace is None:
            return _tcp_socket()
        return await _socket_in(self._namespace)

    async def accepts(self) -> bool:
        """Say whether the server accepts connections."""
        with await self.socket() as probe:
            return await _connects(probe, self)

    async def until_accepts(self) -> None:
        """Wait until the server accepts connections.

        It looks often: a look that comes late makes a cold start longer. To look costs little, since one socket is
        used again and again: a refusal leaves it as it was.

        Raises:
            OSError: The namespace cannot be entered.
        """
        loop = asyncio.get_running_loop()
        begun = loop.time()
        probe = await self.socket()
        try:
            while True:
                try:
                    if await _connects(probe, self, refused=False):
                        return
                except ConnectionRefusedError:
                    pass
                else:
                    probe.close()
                    probe = await self.socket()
                await asyncio.sleep(min(max(_FIRST_LOOK, _LATER * (loop.time() - begun)), _SLOWEST_LOOK))
        finally:
            probe.close()

    def close(self) -> None:
        """Let go of the namespace. May be called again."""
        namespace, self._namespace = self._namespace, None
        if namespace is not None:
            os.close(namespace)


class Reach:
    """The way that this node goes."""

    def __init__(self, way: Way, networks: Networks) -> None:
        self.way = way
        self._networks = networks

    async def prepare(self) -> None:
        """Make the network that this way needs.

        Raises:
            Unreachable: This way leads nowhere from here.
        """
        if self.way == "attached" and not await self._networks.can_attach():
            raise Unreachable("the agent is not in a container of this engine with a network of its own")
        if self.way == "bridge":
            if await self._networks.can_attach():
                raise Unreachable(
                    "the agent's container has a network of its own, without a route to that of functions"
                )
            await self._networks.make("closed")
        elif self.way == "published":
            await self._networks.make("published")

    def placement(self, network: Network, mode: Mode) -> tuple[str, bool]:
        """Say on which of the engine's networks a container goes, and whether its port is published."""
        published = self.way == "published" and mode == "http"
        if network == "internet":
            return self._networks.name("internet"), published
        if mode == "job" or self.way == "namespace":
            return "none", False
        if self.way == "attached":
            return self._networks.new_single(), False
        return self._networks.name("closed" if self.way == "bridge" else "published"), published

    async def open(self, network: str) -> None:
        """Make what leads to a container on a network, before the container is made or taken up."""
        await self._networks.make_single(network)

    async def close(self, network: str) -> None:
        """Remove what `open` made, after the container was removed."""
        await self._networks.remove_single(network)

    def door(self, container: Inspection) -> Door:
        """Find the door of a container that runs.

        Raises:
            Unreachable: The engine gave no address, or its process is not to be seen from here.
        """
        if self.way == "namespace":
            return Door("127.0.0.1", PORT, namespace=_namespace_of(container.pid))
        if self.way in {"bridge", "attached"}:
            if not container.addresses:
                raise Unreachable("the container has no address")
            return Door(next(iter(container.addresses.values())), PORT)
        if PORT not in container.ports:
            raise Unreachable("the container's port is not published")
        return Door("127.0.0.1", container.ports[PORT], proxied=True)


def _namespace_of(pid: int) -> int:
    """Open the network namespace of a process of the engine's machine."""
    try:
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    except OSError as error:
        raise Unreachable(f"its network namespace cannot be opened: {error.strerror}") from None
    # In a container with process numbers of its own, that number is somebody else's: often in the same namespace.
    if os.path.samestat(os.fstat(namespace), Path("/proc/self/ns/net").stat()):
        os.close(namespace)
        raise Unreachable("the engine's processes are not to be seen from here")
    return namespace


async def _connects(probe: socket.socket, door: Door, *, refused: bool = True) -> bool:
    """Connect a socket; False where that does not work.

    Args:
        refused: Take a refusal as no; otherwise it is raised.
    """
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            await asyncio.get_running_loop().sock_connect(probe, (door.host, door.port))
    except OSError as error:  # a time-out is one too
        if isinstance(error, ConnectionRefusedError) and not refused:
            raise
        return False
    return not door.proxied or await _stays_open(probe)


async def _stays_open(connection: socket.socket) -> bool:
    """Tell a server from the engine's proxy, which accepts at once and closes when nobody listens behind it."""
    try:
        async with asyncio.timeout(_PROXY_SECONDS):
            return bool(await asyncio.get_running_loop().sock_recv(connection, 1))
    except TimeoutError:
        return True
    except OSError:
        return False


def _tcp_socket() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


async def _socket_in(namespace: int) -> socket.socket:
    """Make a socket in another network namespace.

    A thread that entered a namespace is of no use for anything else, so it ends; the socket stays there.
    """
    loop = asyncio.get_running_loop()
    made: asyncio.Future[socket.socket] = loop.create_future()
    own = os.dup(namespace)  # the door may close while the thread starts

    def deliver(result: socket.socket | OSError) -> None:
        if isinstance(result, OSError):
            if not made.done():
                made.set_exception(result)
        elif made.done():
            result.close()
        else:
            made.set_result(result)

    def run() -> None:
        result: socket.socket | OSError
        try:
            enter(own)
            result = _tcp_socket()
        except OSError as error:
            result = error
        finally:
            os.close(own)
        loop.call_soon_threadsafe(deliver, result)

    threading.Thread(target=run, name="network-namespace", daemon=True).start()
    return await made


def enter(namespace: int) -> None:
    """Move the calling thread into a network namespace. Python has os.setns from 3.12 on only."""
    if _libc().setns(namespace, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@functools.cache
def _libc() -> ctypes.CDLL:
    """Load it once: that costs more than the call."""
    return ctypes.CDLL(None, use_errno=True)
