"""Where the database is: a URL, which may name several hosts and holds a password that nobody may see."""

from __future__ import annotations

from urllib.parse import parse_qs, unquote, urlsplit

from msgspec import Struct

DEFAULT_PORT = 5432


class Host(Struct, frozen=True):
    """One server that may be the primary."""

    name: str
    port: int

    def __str__(self) -> str:
        return f"{self.name}:{self.port}"


class Address(Struct, frozen=True):
    """A database by its URL.

    Attributes:
        url: As it was given. It holds the password, so it goes to the driver and nowhere else.
        hosts: Those that it names, in order; empty where the driver's defaults and its ``PG…`` variables decide.
        session: What a server must allow to be used: ``target_session_attrs``, ``read-write`` by default.
    """

    url: str
    hosts: tuple[Host, ...]
    session: str

    def __str__(self) -> str:
        return ", ".join(map(str, self.hosts)) or "the default host"

    def __repr__(self) -> str:
        return f"Address({self})"


def parse(url: str) -> Address:
    """Read a URL ``postgresql://[user[:password]@]host[:port][,…][/database][?parameter=value…]``.

    Raises:
        ValueError: It is none. What the error says holds nothing of the URL.
    """
    try:
        parts = urlsplit(url)
        parameters = parse_qs(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        raise ValueError("not a URL") from None
    if parts.scheme not in {"postgresql", "postgres"} or parts.fragment:
        raise ValueError("not a URL of PostgreSQL")
    listed = parts.netloc.rpartition("@")[2] or parameters.get("host", [""])[-1]
    ports = parameters.get("port", [str(DEFAULT_PORT)])[-1].split(",")
    names = listed.split(",") if listed else []
    if len(ports) not in {1, len(names)}:
        raise ValueError("one port, or one for each host")
    if len(ports) == 1:
        ports *= len(names)
    hosts = tuple(_host(name, port) for name, port in zip(names, ports, strict=True))
    return Address(url, hosts, parameters.get("target_session_attrs", ["read-write"])[-1])


def _host(text: str, port: str) -> Host:
    text = unquote(text)
    if text.startswith("["):
        name, _, rest = text[1:].partition("]")
        given = rest.removeprefix(":")
    elif text.startswith("/"):
        name, given = text, ""
    else:
        name, _, given = text.partition(":")
    number = given or port
    if not name or not (number.isascii() and number.isdigit() and 0 < int(number) < 65_536):
        raise ValueError("each host is NAME or NAME:PORT")
    return Host(name, int(number))
