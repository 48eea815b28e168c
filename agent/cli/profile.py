"""Which dispatcher the client commands speak to, and with which token."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import click

_TOKEN = re.compile(r"[!#-\[\]-~]+")
"""Visible ASCII without quote and backslash: fits a header and a TOML string as it is."""


class Endpoint(NamedTuple):
    """A dispatcher, and the token for it."""

    url: str
    token: str


def profile_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Say where the profile of ``fernd login`` is."""
    home = environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "fernd" / "profile.toml"


def find(environ: Mapping[str, str] = os.environ) -> Endpoint:
    """Take FERND_URL and FERND_TOKEN, or else the profile.

    The token of the profile is never sent to another dispatcher than the profile's own.

    Raises:
        click.UsageError: Nothing names a dispatcher, or there is no token for it.
    """
    url, token = environ.get("FERND_URL"), environ.get("FERND_TOKEN")
    remembered = None if url and token else read(profile_path(environ))
    if remembered and (not url or check_url(url) == remembered.url):
        url, token = url or remembered.url, token or remembered.token
    if not url:
        raise click.UsageError("no dispatcher is known: set FERND_URL and FERND_TOKEN, or run `fernd login URL`")
    if not token:
        raise click.UsageError(f"there is no token for {url}: set FERND_TOKEN, or run `fernd login {url}`")
    return Endpoint(check_url(url), check_token(token))


def read(path: Path) -> Endpoint | None:
    """Read a profile; None where there is none.

    Raises:
        click.UsageError: It cannot be read or is not a profile.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        return Endpoint(check_url(content["url"]), check_token(content["token"]))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise click.UsageError(f"{path} is not a profile with url and token; run `fernd login` again") from None


def write(path: Path, endpoint: Endpoint) -> None:
    """Write a profile that only its owner can read, in one step."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
            file.write(f'url = "{endpoint.url}"\ntoken = "{endpoint.token}"\n')
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def check_url(url: str) -> str:
    """Give a dispatcher's URL without a slash at the end.

    Raises:
        click.UsageError: It is not an HTTP URL.
    """
    if not re.fullmatch(r"https?://[^\s\"\\?#@/]+(/[^\s\"\\?#]*)?", url):
        raise click.UsageError("the dispatcher's URL must look like http://127.0.0.1:7070")
    return url.rstrip("/")


def check_token(token: str) -> str:
    """Give a token without white space around it.

    Raises:
        click.UsageError: It could not be a token.
    """
    token = token.strip()
    if not _TOKEN.fullmatch(token):
        raise click.UsageError("the token is empty or has characters that no token has")
    return token
