"""One control loop that really stalls, while all others go on: a disk that takes no writes, and says nothing."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.install import node
from tests.install.machine import Machine

pytestmark = [pytest.mark.engine, pytest.mark.long, pytest.mark.install, pytest.mark.timeout(600)]


class Disk:
    """A file system of its own, which can be frozen: who writes to it waits until it is thawed."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "disk"
        self._frozen = False
        image = directory / "disk.image"
        image.touch()
        subprocess.run(["truncate", "--size", "64M", str(image)], check=True)
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
        self.path.mkdir()
        subprocess.run(["mount", "-o", "loop", str(image), str(self.path)], check=True)

    def freeze(self) -> None:
        subprocess.run(["fsfreeze", "--freeze", str(self.path)], check=True)
        self._frozen = True

    def thaw(self) -> None:
        if self._frozen:
            subprocess.run(["fsfreeze", "--unfreeze", str(self.path)], check=True)
        self._frozen = False

    def remove(self) -> None:
        self.thaw()
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path)
    yield made
    made.remove()


@pytest.mark.usefixtures("function_image")
def test_a_stalled_loop_ends_in_a_restart(
    disk: Disk, prepared_image: str, bundle: Path, measured: Callable[[str, object], None]
) -> None:
    """The journal's loop hangs in a write; heartbeats go on; systemd is told, and starts the agent again."""
    with Machine(prepared_image, "none", {bundle: "/bundle:ro", disk.path: "/srv/agent"}) as machine:
        node.install(machine)
        machine.run(
            "systemctl stop fernd-agent; mv /var/lib/fernd/node.json /var/lib/fernd/credential /srv/agent; "
            "chown -R fernd: /srv/agent; chmod 700 /srv/agent; "
            "printf '[node]\\ndata_dir = \"/srv/agent\"\\n' >/etc/fernd/agent.toml; "
            "mkdir -p /run/systemd/system/fernd-agent.service.d; "
            "printf '[Service]\\nWatchdogSec=8\\nReadWritePaths=/srv/agent\\n' "
            ">/run/systemd/system/fernd-agent.service.d/test.conf; systemctl daemon-reload; systemctl start fernd-agent"
        )
        task = node.begin(machine, "sleep 280")
        pid = node.agent_pid(machine)
        begun = time.monotonic()
        disk.freeze()
        machine.until("journalctl --unit fernd-agent --output cat | grep 'control loops have stalled'", 200)
        measured("a write that hangs, to the word that a loop has stalled", time.monotonic() - begun)
        said = machine.run("journalctl --unit fernd-agent --output cat --grep 'have stalled' --lines 1")
        assert 'loops=["journal"]' in said
        assert machine.run(node.CLIENT + "fernd node list --json | grep -c '\"available\": *true'").strip() == "1"
        disk.thaw()
        machine.until(f"! kill -0 {pid} 2>/dev/null && systemctl is-active fernd-agent", 150)
        assert "watchdog" in machine.run("journalctl --unit fernd-agent --output cat").lower()
        assert node.invoke(machine, "after") == "after"
        # Or the machine's end would wait for it, and a machine that is killed cannot take its frozen containers along.
        machine.run(node.CLIENT + f"fernd task cancel {task}")
