"""The Debian package, without a network: installed, joined, upgraded while it runs, removed, purged."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.install import node
from tests.install.machine import PREPARED, Failed, Machine, root_image

pytestmark = [pytest.mark.engine, pytest.mark.long, pytest.mark.install, pytest.mark.timeout(600)]


@pytest.mark.usefixtures("function_image", "packages")
@pytest.mark.parametrize(("suite", "more"), [("bookworm", ""), ("trixie", ",docker-cli")])
def test_the_life_of_a_package(suite: str, more: str, bundle: Path, measured: Callable[[str, object], None]) -> None:
    """It makes its environment without a network; upgrade and downgrade lose no task that runs; it leaves nothing."""
    image = root_image("prepared" if suite == "bookworm" else suite, PREPARED + more, suite)
    with Machine(image, "none", {bundle: "/bundle:ro"}) as machine:
        live(machine, suite, measured)


def live(machine: Machine, suite: str, measured: Callable[[str, object], None]) -> None:
    """The life of a package on one machine."""
    before = machine.files()
    machine.run("ln -s /opt/fernd/current/bin/fernd /usr/local/bin/fernd")
    with pytest.raises(Failed, match="installed here by install"):
        machine.run("dpkg --install /bundle/fernd.deb")
    machine.run("rm /usr/local/bin/fernd")
    begun = time.monotonic()
    machine.run("dpkg --install /bundle/fernd.deb")
    measured(f"{suite}: dpkg --install fernd.deb, no network", time.monotonic() - begun)
    assert not machine.succeeds("systemctl is-active fernd-agent || systemctl is-active fernd-dispatcher")

    with pytest.raises(Failed, match="fernd is a Debian package here"):
        machine.run("/bundle/install.sh")

    machine.run("systemctl enable --now fernd-dispatcher")
    token = node.join_token(machine)
    begun = time.monotonic()
    machine.run(f"fernd agent join http://127.0.0.1:7070 --token {token} && systemctl enable --now fernd-agent")
    measured(f"{suite}: fernd agent join && systemctl enable --now fernd-agent", time.monotonic() - begun)
    node.add_function(machine)
    assert node.invoke(machine, "packaged") == "packaged"

    for change, file, version in (("upgrade", "later.deb", "0.1.1"), ("downgrade", "fernd.deb", "0.1.0")):
        task, pid = node.begin(machine, "sleep 8"), node.agent_pid(machine)
        begun = time.monotonic()
        machine.run(f"dpkg --install /bundle/{file}")
        measured(f"{suite}: {change} by dpkg --install, under a task of 8 s", time.monotonic() - begun)
        assert node.agent_pid(machine) != pid
        found = node.shown(machine, task)
        assert (found["state"], found["status"], found["attempt"]) == ("finished", 200, 1)
        assert machine.run("fernd --version").strip() == f"fernd {version}"
        assert (
            machine.run("dpkg-query --show --showformat='${Version} ${db:Status-Status}' fernd")
            == f"{version} installed"
        )
        assert machine.run("ls /opt/fernd/versions | wc -l").strip() == "1"
        assert node.invoke(machine, change) == change

    begun = time.monotonic()
    machine.run("dpkg --remove fernd")
    measured(f"{suite}: dpkg --remove fernd", time.monotonic() - begun)
    assert node.containers(machine) == []
    machine.run("dpkg --purge fernd")
    left = machine.files() - before
    assert {path for path in left if not path.startswith(("/var/lib/dpkg", "/var/cache"))} == set()
    assert not machine.succeeds("getent passwd fernd || getent group fernd")
    measured(f"{suite}: files and users left after dpkg --purge", "none")
