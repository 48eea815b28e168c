"""The shell blocks of the pages, run against a live `fernd up`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import DOCS, blocks, pages
from tests.docs.shell import Shell
from tests.e2e.up import Up

ROOT = DOCS.parent

RUN = [page for page in pages() if any(block.mark == "run" for block in blocks(page))]

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(
        not (shutil.which("docker") and shutil.which("curl")), reason="the pages use the commands docker and curl"
    ),
    pytest.mark.timeout(180),
]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A directory like a fresh checkout with fernd installed in it."""
    directory = tmp_path / "fernd"
    (directory / ".venv" / "bin").mkdir(parents=True)
    (directory / "var").mkdir()
    for name in ("deploy", "examples"):
        (directory / name).symlink_to(ROOT / name)
    (directory / ".venv" / "bin" / "fernd").symlink_to(ROOT / ".venv" / "bin" / "fernd")
    return directory


@pytest.fixture
def up(checkout: Path) -> Iterator[Up]:
    up = Up(checkout / "var" / "mine")
    yield up
    assert up.stop() == 0


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_page(page: Path, checkout: Path, up: Up) -> None:
    """Whoever types what the page says gets what the page says."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("FERND_")} | {
        "XDG_CONFIG_HOME": str(checkout / "config"),
        "PATH": f"{checkout / '.venv' / 'bin'}:{os.environ['PATH']}",
    }
    if page.name != "quick-start.md":  # which begins with `fernd login`
        environ |= up.environ | {"FERND_NODE_DATA_DIR": str(up.directory / "agent")}
    with Shell(checkout, environ, up.url.removeprefix("http://")) as shell:
        for block in blocks(page):
            if block.mark == "run":
                shell.run(block)
