"""A bare Debian, with a network and nothing else: from there to a node that takes work, in one command."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.install import node
from tests.install.machine import BARE, Machine, root_image

pytestmark = [pytest.mark.engine, pytest.mark.long, pytest.mark.install, pytest.mark.timeout(600)]


@pytest.mark.usefixtures("function_image")
def test_from_nothing(bundle: Path, measured: Callable[[str, object], None]) -> None:
    """The installer brings Python and the engine itself."""
    with Machine(root_image("bare", BARE), "bridge", {bundle: "/bundle:ro"}) as machine:
        assert not machine.succeeds("command -v python3 || command -v dockerd")
        begun = time.monotonic()
        machine.run("/bundle/install.sh --serve")
        measured("bare Debian to a dispatcher (install.sh --serve)", time.monotonic() - begun)
        token = node.join_token(machine)
        begun = time.monotonic()
        machine.run(f"/bundle/install.sh --dispatcher http://127.0.0.1:7070 --token {token}")
        measured("to a node, engine installed on the way (install.sh --dispatcher --token)", time.monotonic() - begun)
        node.add_function(machine)
        assert node.invoke(machine, "from nothing") == "from nothing"


@pytest.mark.usefixtures("function_image", "packages")
def test_from_nothing_by_the_package(bundle: Path, measured: Callable[[str, object], None]) -> None:
    """The package's dependencies bring Python and the engine."""
    with Machine(root_image("bare", BARE), "bridge", {bundle: "/bundle:ro"}) as machine:
        machine.run("apt-get --quiet update")
        begun = time.monotonic()
        machine.run("apt install --yes /bundle/fernd.deb")
        measured("bare Debian to the program and an engine (apt install ./fernd.deb)", time.monotonic() - begun)
        machine.run("systemctl enable --now fernd-dispatcher")
        token = node.join_token(machine)
        machine.run(f"fernd agent join http://127.0.0.1:7070 --token {token} && systemctl enable --now fernd-agent")
        node.add_function(machine)
        assert node.invoke(machine, "from nothing") == "from nothing"
