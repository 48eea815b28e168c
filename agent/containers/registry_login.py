"""What the agent is logged in to: a file of the operator's says it, or the one that `docker login` leaves.

The engine asks a registry for us, and knows no passwords: they travel with each pull.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog

log = structlog.get_logger()

HUB = "https://index.docker.io/v1/"
CREDENTIAL = "docker-config.json"
"""Name of such a file among the credentials that systemd gives."""

HELPER_SECONDS = 20.0
"""For a program that keeps the passwords to answer."""


def registry_of(reference: str) -> str:
    """Name the registry of an image as Docker's file does."""
    first, slash, _ = reference.partition("/")
    named = slash and ("." in first or ":" in first or first == "localhost")
    return first if named and first not in {"docker.io", "index.docker.io"} else HUB


async def login_for(
    reference: str, named: Path | None = None, environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Give the headers that a pull of an image needs; none where nobody logged in.

    Args:
        named: The file with the logins. None: systemd's credential where there is one, else Docker's own.
    """
    login = await login_to(reference, named, environ)
    if login is None:
        return {}
    encoded = base64.urlsafe_b64encode(msgspec.json.encode({**login, "serveraddress": registry_of(reference)}))
    return {"X-Registry-Auth": encoded.decode()}


async def login_to(
    reference: str, named: Path | None = None, environ: Mapping[str, str] = os.environ
) -> dict[str, str] | None:
    """Give the login for an image's registry: name and password, or a token; None where there is none."""
    config = await asyncio.to_thread(_read, named or _usual_file(environ))
    registry = registry_of(reference)
    helper = _given(config, "credHelpers").get(registry) or config.get("credsStore")
    login = await _ask(str(helper), registry) if helper else None
    return login or _written(_given(config, "auths"), registry)


def _usual_file(environ: Mapping[str, str]) -> Path:
    given = Path(environ.get("CREDENTIALS_DIRECTORY") or "/nonexistent") / CREDENTIAL
    if given.exists():
        return given
    home = environ.get("DOCKER_CONFIG") or Path(environ.get("HOME") or "/root") / ".docker"
    return Path(home) / "config.json"


def _read(file: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
        log.warning("logins to registries cannot be read", file=str(file), reason=str(error))
        return {}


def _given(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = config.get(key)
    return found if isinstance(found, dict) else {}


def _written(logins: Mapping[str, Any], registry: str) -> dict[str, str] | None:
    for name, found in logins.items():
        if _bare(name) != _bare(registry) or not isinstance(found, dict):
            continue
        if token := found.get("identitytoken"):
            return {"identitytoken": str(token)}
        if token := found.get("registrytoken"):
            return {"registrytoken": str(token)}
        try:
            user, colon, password = base64.b64decode(str(found.get("auth") or "")).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            log.warning("login to a registry cannot be read", registry=name)
            continue
        if colon:
            return {"username": user, "password": password.rstrip("\0")}
    return None


def _bare(registry: str) -> str:
    """Leave the host: older files name a registry by a URL."""
    return registry.partition("://")[2].partition("/")[0] or registry.partition("/")[0]


async def _ask(helper: str, registry: str) -> dict[str, str] | None:
    """Ask a program that keeps the passwords, as Docker's command does."""
    try:
        asked = await asyncio.create_subprocess_exec(
            f"docker-credential-{helper}",
            "get",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError as error:
        log.warning("the keeper of logins cannot be run", helper=helper, reason=str(error))
        return None
    try:
        async with asyncio.timeout(HELPER_SECONDS):
            answer, _ = await asked.communicate(registry.encode())
        found = msgspec.json.decode(answer, type=dict[str, str]) if asked.returncode == 0 else {}
    except (TimeoutError, msgspec.DecodeError, msgspec.ValidationError):
        log.warning("the keeper of logins gave no answer", helper=helper)
        return None
    finally:
        if asked.returncode is None:
            asked.kill()
            await asked.wait()
    if not found.get("Secret"):
        return None
    if found.get("Username") == "<token>":
        return {"identitytoken": found["Secret"]}
    return {"username": found.get("Username", ""), "password": found["Secret"]}
