"""The Debian package, as far as it can be seen without installing it: `make test-install` does that."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="this is not Debian")
def test_the_package_is_complete(tmp_path: Path) -> None:
    """Its fields, its files, and a wheel of each dependency, here for one Python alone."""
    arch = subprocess.run(["dpkg", "--print-architecture"], check=True, capture_output=True, text=True).stdout.strip()
    command = [str(ROOT / "deploy/build-deb.sh"), arch, str(tmp_path), "3.11"]
    package = subprocess.run(command, check=True, capture_output=True, text=True, timeout=55).stdout.strip()

    def ask(*arguments: str) -> str:
        return subprocess.run(["dpkg-deb", *arguments], check=True, capture_output=True, text=True).stdout

    assert ask("--field", package, "Package").strip() == "fernd"
    assert "python3 (>= 3.11)" in ask("--field", package, "Depends")
    files = ask("--contents", package)
    for name in (
        "./usr/bin/fernd -> /opt/fernd/current/bin/fernd",
        "./usr/lib/fernd/install.sh",
        "./usr/lib/systemd/system/fernd-agent.service",
        "./usr/lib/systemd/system/fernd-dispatcher.service",
        "./usr/lib/sysusers.d/fernd.conf",
        "./usr/lib/tmpfiles.d/fernd.conf",
        "./etc/fernd/agent.toml",
    ):
        assert name in files
    assert not [line for line in files.splitlines() if " root/root " not in line]
    wheels = set(re.findall(r"wheels/(\w+)-[^/\n]*\.whl", files))
    assert wheels >= {"fernd", "pip", "aiohttp", "asyncpg", "click", "msgspec", "psutil", "structlog"}
