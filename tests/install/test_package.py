"""The Debian package, without a network: installed, joined, upgraded while it runs, removed, purged."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.install import build, node
from tests.install.machine import PREPARED, Machine, root_image

pytestmark = [pytest.mark.engine, pytest.mark.long, pytest.mark.install, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def package(bundle: Path) -> Path:
    """The package of this tree, where machines find it."""
    subprocess.run([str(build.ROOT / "deploy/build-deb.sh")], check=True, stdout=subprocess.DEVNULL)
    [made] = (build.ROOT / "dist").glob("fernd_*_amd64.deb")
    target = bundle / "fernd.deb"
    target.write_bytes(made.read_bytes())
    return target


@pytest.mark.usefixtures("function_image", "package")
@pytest.mark.parametrize(("suite", "more"), [("bookworm", ""), ("trixie", ",docker-cli")])
def test_the_life_of_a_package(suite: str, more: str, bundle: Path, measured: Callable[[str, object], None]) -> None:
    """It makes its environment without a network, survives an upgrade under the service, and leaves nothing."""
    image = root_image("prepared" if suite == "bookworm" else suite, PREPARED + more, suite)
    with Machine(image, "none", {bundle: "/bundle:ro"}) as machine:
        live(machine, suite, measured)


def live(machine: Machine, suite: str, measured: Callable[[str, object], None]) -> None:
    """The life of a package on one machine."""
    before = machine.files()
    begun = time.monotonic()
    machine.run("dpkg --install /bundle/fernd.deb")
    measured(f"{suite}: dpkg --install fernd.deb, no network", time.monotonic() - begun)
    assert not machine.succeeds("systemctl is-active fernd-agent || systemctl is-active fernd-dispatcher")

    machine.run("systemctl enable --now fernd-dispatcher")
    token = node.join_token(machine)
    begun = time.monotonic()
    machine.run(f"fernd agent join http://127.0.0.1:7070 --token {token} && systemctl enable --now fernd-agent")
    measured(f"{suite}: fernd agent join && systemctl enable --now fernd-agent", time.monotonic() - begun)
    node.add_function(machine)
    assert node.invoke(machine, "packaged") == "packaged"

    # What an upgrade does: the postinst of a package with other wheels, while the services run.
    task, pid = node.begin(machine, "sleep 8"), node.agent_pid(machine)
    machine.run("cp /bundle/later/fernd-*.whl /usr/lib/fernd/wheels/; dpkg-reconfigure --frontend noninteractive fernd")
    assert node.agent_pid(machine) != pid
    assert node.shown(machine, task)["status"] == 200
    assert machine.run("fernd --version").strip() == "fernd 0.1.1"
    assert node.invoke(machine, "upgraded") == "upgraded"
    machine.run("rm /usr/lib/fernd/wheels/fernd-0.1.1-*")

    begun = time.monotonic()
    machine.run("dpkg --remove fernd")
    measured(f"{suite}: dpkg --remove fernd", time.monotonic() - begun)
    assert node.containers(machine) == []
    machine.run("dpkg --purge fernd")
    left = machine.files() - before
    assert {path for path in left if not path.startswith(("/var/lib/dpkg", "/var/cache"))} == set()
    assert not machine.succeeds("getent passwd fernd || getent group fernd")
    measured(f"{suite}: files and users left after dpkg --purge", "none")
