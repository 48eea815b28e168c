"""An engine of the test's own, which may be killed, frozen and restarted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import docker
import docker.errors
import requests


class SecondEngine:
    """A dockerd with sockets, state and network namespace of its own, so that no other engine is touched.

    Args:
        directory: For all of its files; short, since it has sockets in it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.address = f"unix://{directory}/sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, live_restore: bool) -> None:
        """Start it, and return when it answers."""
        self._forget_the_dead()
        command = ["unshare", "--net", "dockerd", "--host", self.address, "--bridge", "none", "--iptables=false"]
        for option, name in (("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")):
            command += [option, str(self.directory / name)]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *(["--live-restore"] if live_restore else [])], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 30
        with docker.APIClient(self.address, version="1.41", timeout=5) as client:
            while not _answers(client):
                assert time.monotonic() < deadline, "the second engine does not answer"
                assert self._process.poll() is None, (self.directory / "log").read_text()[-2000:]
                time.sleep(0.05)

    def _forget_the_dead(self) -> None:
        """Remove the pid files of what was killed: where nobody reaps the dead, they count as running."""
        for name in ("pid", "exec/containerd/containerd.pid"):
            file = self.directory / name
            deadline = time.monotonic() + 10
            while file.exists() and str(self.directory).encode() in _command(int(file.read_text())):
                assert time.monotonic() < deadline, f"what {name} names is still there"
                time.sleep(0.02)
            file.unlink(missing_ok=True)

    def send(self, sign: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(sign)

    def end(self, sign: signal.Signals) -> None:
        """End it with a signal, and return when it is gone."""
        assert self._process is not None
        self._process.send_signal(sign)
        self._process.wait(30)

    def load(self, images: Iterator[bytes]) -> None:
        with docker.APIClient(self.address, version="1.41", timeout=60) as client:
            list(client.load_image(b"".join(images)))  # type: ignore[no-untyped-call]

    def remove(self) -> None:
        """End it and leave nothing of it: no process, no mount, no file."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait(30)
        ours = str(self.directory).encode()
        deadline = time.monotonic() + 10
        # Those of its containers go with their shims, which name its directory in their command.
        while processes := [pid for pid in _processes() if ours in _command(pid)]:
            assert time.monotonic() < deadline, "processes of the second engine are left"
            for pid in processes:
                for child in _children(pid):
                    _kill(child)
                _kill(pid)
            time.sleep(0.05)
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in sorted((mount for mount in mounts if mount.startswith(str(self.directory))), reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=True)
        shutil.rmtree(self.directory)


def _answers(client: docker.APIClient) -> bool:
    try:
        return bool(client.ping())
    except (docker.errors.DockerException, requests.RequestException, OSError):
        return False


def _processes() -> list[int]:
    entries = (entry.name for entry in Path("/proc").iterdir())
    return [int(name) for name in entries if name.isdigit() and int(name) != os.getpid()]


def _command(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
