"""What the installs are tested with, and the table of what was measured."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.install import build
from tests.install.machine import PREPARED, root_image

_MEASURED: list[tuple[str, str]] = []

ECHO = """
import os, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer

class Echo(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        print("attempt " + self.headers["X-Attempt"], file=sys.stderr, flush=True)
        if body.startswith(b"sleep "):
            time.sleep(float(body[6:]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

HTTPServer(("", int(os.environ["PORT"])), Echo).serve_forever()
"""

FUNCTION = f"fernd-test-install-echo:{os.getpid()}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was measured, if anything was."""
    if _MEASURED:
        terminalreporter.section("installs")
        for what, value in _MEASURED:
            terminalreporter.write_line(f"{what:<70}  {value}")


@pytest.fixture(scope="session")
def measured() -> Callable[[str, object], None]:
    """Note something for the table."""

    def note(what: str, value: object) -> None:
        _MEASURED.append((what, f"{value:.1f} s" if isinstance(value, float) else str(value)))

    return note


@pytest.fixture(scope="session")
def bundle() -> Iterator[Path]:
    """What is carried to a machine: the installer and wheels, of this version, a later one, and a broken one."""
    with tempfile.TemporaryDirectory(prefix="fernd-bundle-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        shutil.copy(build.ROOT / "deploy/install.sh", directory)
        wheels = build.wheels(directory / "wheels")
        build.later(wheels, directory / "later", "0.1.1")
        build.later(wheels, directory / "broken", "0.1.2", sound=False)
        yield directory


@pytest.fixture(scope="session")
def packages(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The package of this tree and one of a later version, where machines find them."""
    work = tmp_path_factory.mktemp("packages")
    build.package(work).rename(bundle / "fernd.deb")
    build.later_package(work, "0.1.1").rename(bundle / "later.deb")


@pytest.fixture(scope="session")
def function_image() -> Iterator[str]:
    """A function that answers with its input, and sleeps when it is told to."""
    with tempfile.TemporaryDirectory() as context:
        Path(context, "echo.py").write_text(ECHO)
        Path(context, "Dockerfile").write_text('FROM fernd-base\nCOPY echo.py /\nCMD ["python3", "-u", "/echo.py"]\n')
        subprocess.run(["docker", "build", "--quiet", "--tag", FUNCTION, context], check=True, capture_output=True)
    yield FUNCTION
    subprocess.run(["docker", "image", "rm", "--force", FUNCTION], check=True, capture_output=True)


@pytest.fixture(scope="session")
def prepared_image() -> str:
    """A Debian with Python and an engine, for machines without a network."""
    return root_image("prepared", PREPARED)
