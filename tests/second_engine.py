"""An engine of the tests' own, which may be killed, frozen and restarted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path

import docker
import psutil
import pytest

from agent.containers.reach import enter
from tests.this_run import RUN, is_over

needs_second_engine = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("dockerd"), reason="needs root and a dockerd of its own"
)

_PREFIX = "fernd-engine-"
_WHERE = Path("/tmp")
"""Sockets want short paths."""

SECONDS = 60.0
"""It starts, answers and ends within so long, on a busy machine too."""


class SecondEngine:
    """A dockerd with sockets, state and network namespace of its own, so that no other engine is touched.

    It has no network to give: its containers are reached by their namespaces.

    Attributes:
        directory: For all of its files; also the mark by which its processes are known.
        socket: Where it listens.
        data: Where its images are.
    """

    def __init__(self, runtimes: Mapping[str, Sequence[str]] | None = None, *, disk: int = 0) -> None:
        """Make a place for it.

        Args:
            runtimes: OCI runtimes that it knows besides its own, each with its program and arguments.
            disk: MiB of a file system of its own for its images; 0: it has none of its own.
        """
        _remove_leftovers()
        self._runtimes = runtimes or {}
        self.directory = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{RUN}-", dir=_WHERE))
        self.socket = self.directory / "sock"
        self.address = f"unix://{self.socket}"
        self.data = self.directory / "data"
        self._process: subprocess.Popen[bytes] | None = None
        if disk:
            self.data.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={disk}m", "tmpfs", self.data], check=True)

    def start(self, *, live_restore: bool) -> None:
        """Start it, and return when it answers."""
        self._forget_the_dead()
        settings = self.directory / "daemon.json"
        known = {name: {"path": path, "runtimeArgs": more} for name, (path, *more) in self._runtimes.items()}
        settings.write_text(json.dumps({"runtimes": known}))
        options = {
            "config-file": settings,
            "host": self.address,
            "data-root": self.data,
            "exec-root": self.directory / "exec",
            "pidfile": self.directory / "pid",
            "bridge": "none",
            "iptables": "false",
            "shutdown-timeout": 2,
            "live-restore": str(live_restore).lower(),
        }
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                # Without a network namespace of its own it would remove the bridge of the machine's engine.
                ["unshare", "--net", "dockerd", *(f"--{name}={value}" for name, value in options.items())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + SECONDS
        while not self._answers():
            assert time.monotonic() < deadline, f"the second engine does not answer: {self._last_words()}"
            assert self._process.poll() is None, self._last_words()
            time.sleep(0.05)

    def load(self, images: Iterable[bytes]) -> None:
        """Bring images to it."""
        with closing(docker.APIClient(self.address, version="1.41")) as client:
            list(client.load_image(b"".join(images)))  # type: ignore[no-untyped-call]

    def listen(self, port: int) -> socket.socket:
        """Listen on its own loopback address, so that it can pull from there."""
        assert self._process is not None
        subprocess.run(
            ["nsenter", f"--net=/proc/{self._process.pid}/ns/net", "ip", "link", "set", "lo", "up"], check=True
        )
        listeners: list[socket.socket] = []

        def make() -> None:  # in a thread of its own: it does not come back from there
            assert self._process is not None
            with Path(f"/proc/{self._process.pid}/ns/net").open() as namespace:
                enter(namespace.fileno())
            listeners.append(socket.create_server(("127.0.0.1", port)))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        return listeners[0]

    def functions(self) -> list[psutil.Process]:
        """List the processes in its containers, which its end does not end."""
        found = []
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                if "shim" in process.info["name"]:
                    found += process.children(recursive=True)
        return found

    def send(self, sign: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(sign)

    def end(self, sign: signal.Signals) -> None:
        """End it with a signal, if it runs, and return when it is gone."""
        assert self._process is not None
        self._process.send_signal(sign)
        self._process.wait(SECONDS)

    def remove(self) -> None:
        """End it and leave nothing of it: no process, no mount, no file."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(SECONDS)
        _remove(self.directory)

    def _answers(self) -> bool:
        # By hand: the library leaves the socket of a connection that was refused unclosed.
        with suppress(OSError), socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(5)
            asking.connect(str(self.socket))
            asking.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in asking.recv(64)
        return False

    def _processes(self) -> list[psutil.Process]:
        return _processes_of(self.directory)

    def _last_words(self) -> str:
        return (self.directory / "log").read_text(errors="replace")[-2000:]

    def _forget_the_dead(self) -> None:
        """Remove the pid files of what was killed: where nobody reaps the dead, they count as running.

        Its containerd ends with it, and may take a moment for that.
        """
        for name in ("pid", "exec/containerd/containerd.pid"):
            file = self.directory / name
            deadline = time.monotonic() + SECONDS
            while file.exists() and _lives(_number(file)) and self._is_ours(_number(file)):
                assert time.monotonic() < deadline, f"what {name} names is still there"
                time.sleep(0.02)
            file.unlink(missing_ok=True)

    def _is_ours(self, pid: int) -> bool:
        return any(process.pid == pid for process in self._processes())


def _remove_leftovers() -> None:
    """Remove the engines of runs that were killed."""
    for directory in _WHERE.glob(f"{_PREFIX}*"):
        if is_over(directory.name.removeprefix(_PREFIX).rpartition("-")[0]):
            _remove(directory)


def _remove(directory: Path) -> None:
    """Remove an engine's processes, then those of its containers' that are left, its mounts and its files."""
    deadline = time.monotonic() + SECONDS
    # Those of containers go with their shims, which name its directory in their command. The engine goes first,
    # or it would start what is killed here anew.
    while processes := sorted(_processes_of(directory), key=lambda process: process.info["name"] != "dockerd"):
        assert time.monotonic() < deadline, f"processes of a second engine are left: {processes}"
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                for one in [process, *process.children(recursive=True)]:
                    one.kill()
        psutil.wait_procs(processes, 0.2)
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((mount for mount in mounts if mount.startswith(f"{directory}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
    shutil.rmtree(directory, ignore_errors=True)


def _processes_of(directory: Path) -> list[psutil.Process]:
    """List the living processes that name a directory in their command."""
    found = []
    for process in psutil.process_iter(["cmdline", "name", "status"]):
        named = any(str(directory) in argument for argument in process.info["cmdline"] or ())
        if named and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def _number(file: Path) -> int:
    with suppress(OSError, ValueError):
        return int(file.read_text())
    return 0


def _lives(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return pid > 0 and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False
