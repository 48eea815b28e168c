"""What travels with a pull: the login that Docker's own file holds for the registry of the image."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from agent.containers.registry_login import HUB, login_for, registry_of


@pytest.mark.parametrize(
    ("reference", "registry"),
    [
        ("hello", HUB),
        ("hello:1", HUB),
        ("library/hello", HUB),
        ("docker.io/library/hello", HUB),
        ("registry.example/team/hello:1", "registry.example"),
        ("localhost/hello", "localhost"),
        ("127.0.0.1:5000/hello@sha256:00", "127.0.0.1:5000"),
    ],
)
def test_registry_of(reference: str, registry: str) -> None:
    """The part before the first slash is a registry where it looks like a host."""
    assert registry_of(reference) == registry


async def headers(directory: Path, config: object, reference: str, **environ: str) -> dict[str, Any]:
    (directory / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    found = await login_for(reference, None, {"DOCKER_CONFIG": str(directory), **environ})
    return json.loads(base64.urlsafe_b64decode(found["X-Registry-Auth"])) if found else {}


async def test_written_logins(tmp_path: Path) -> None:
    """A password or a token is found under the registry's name, also where that is written as a URL; no other's."""
    config = {
        "auths": {
            "https://registry.example/v2/": {"auth": base64.b64encode(b"ada:se:cret").decode()},
            "other.example": {"identitytoken": "token"},
            "broken.example": {"auth": "*"},
        }
    }
    ada = {"username": "ada", "password": "se:cret", "serveraddress": "registry.example"}
    assert await headers(tmp_path, config, "registry.example/team/hello") == ada
    other = {"identitytoken": "token", "serveraddress": "other.example"}
    assert await headers(tmp_path, config, "other.example/hello") == other
    for reference in ("hello", "broken.example/hello", "registry.example.org/hello"):
        assert await headers(tmp_path, config, reference) == {}


async def test_no_login(tmp_path: Path) -> None:
    """No file, and one that cannot be read, are no login."""
    assert await login_for("hello", None, {"DOCKER_CONFIG": str(tmp_path)}) == {}
    assert await headers(tmp_path, "{", "hello") == {}
    assert await headers(tmp_path, {"auths": []}, "hello") == {}


async def test_a_keeper_of_logins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that keeps passwords is asked as Docker asks it; where it fails, what is written counts."""
    keeper = tmp_path / "docker-credential-test"
    keeper.write_text('#!/bin/sh\nread -r registry\n[ "$registry" = registry.example ] || exit 1\n'
                      'echo \'{"ServerURL":"","Username":"<token>","Secret":"kept"}\'\n')  # fmt: skip
    keeper.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    config = {"credsStore": "test", "auths": {"other.example": {"identitytoken": "written"}}}
    assert (await headers(tmp_path, config, "registry.example/hello"))["identitytoken"] == "kept"
    assert (await headers(tmp_path, config, "other.example/hello"))["identitytoken"] == "written"
    missing = {"credHelpers": {"registry.example": "missing"}}
    assert await headers(tmp_path, missing, "registry.example/hello") == {}
