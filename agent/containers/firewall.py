"""Packet filter rules for the bridges of this node, so that functions on them reach no private address.

Each bridge has two chains of its own. One stands in ``DOCKER-USER``, which the engine consults first for
what is forwarded; the other in ``INPUT``, for what is meant for this machine itself. Putting them in
place again changes nothing, and removing them leaves nothing. They are for IPv4: the networks have no IPv6, see
`Engine.ensure_network`.
"""

from __future__ import annotations

import asyncio
import ipaddress
from pathlib import Path

import structlog

log = structlog.get_logger()

NOT_PUBLIC = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",  # link-local, where clouds have their metadata services
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
)
"""Destinations that are not the internet: private, link-local, for documentation, multicast, reserved."""

RESOLVERS = Path("/etc/resolv.conf")
_SECONDS = 15.0
_ANSWERS = ("-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "RETURN")
_PARENTS = ("DOCKER-USER", "INPUT")


class FirewallError(Exception):
    """The rules cannot be put in place; the text says why."""


async def guard(bridge: str, outbound: bool) -> None:
    """Put the rules of a bridge in place.

    Args:
        outbound: Let public addresses be reached, and this machine's name servers on port 53.

    Raises:
        FirewallError: ``iptables`` is missing or may not be used.
    """
    if await _stands(bridge):
        return  # a function may be behind it, and must not be let out for a moment
    await remove(bridge)
    forward, own = _chains(bridge)
    rules = [
        ("-N", forward),
        ("-N", own),
        ("-A", forward, *_ANSWERS),
        ("-A", own, *_ANSWERS),
    ]
    if outbound:
        rules += [
            ("-A", forward, "-d", server, "-p", protocol, "--dport", "53", "-j", "RETURN")
            for server in await asyncio.to_thread(_name_servers)
            for protocol in ("udp", "tcp")
        ]
        rules += [("-A", forward, "-d", network, "-j", "DROP") for network in NOT_PUBLIC]
    else:
        rules += [("-A", forward, "-j", "DROP")]
    rules += [
        ("-A", own, "-j", "DROP"),
        ("-I", "DOCKER-USER", "1", "-i", bridge, "-j", forward),
        ("-I", "INPUT", "1", "-i", bridge, "-j", own),
    ]
    try:
        for rule in rules:
            await _iptables(*rule)
    except FirewallError:
        await remove(bridge)
        raise


async def remove(bridge: str) -> None:
    """Take the rules of a bridge away, as far as they are there."""
    for parent, chain in zip(_PARENTS, _chains(bridge), strict=True):
        for command in (("-D", parent, "-i", bridge, "-j", chain), ("-F", chain), ("-X", chain)):
            try:
                await _iptables(*command)
            except FirewallError as error:
                log.debug("packet filter rule not removed", chain=chain, reason=str(error))


async def _stands(bridge: str) -> bool:
    """Say whether the rules are in place: what leads to a chain is put there last, when the chain is complete."""
    try:
        for parent, chain in zip(_PARENTS, _chains(bridge), strict=True):
            await _iptables("-C", parent, "-i", bridge, "-j", chain)
    except FirewallError:
        return False
    return True


def _chains(bridge: str) -> tuple[str, str]:
    return f"{bridge}-fwd", f"{bridge}-in"


def _name_servers() -> list[str]:
    """List the IPv4 name servers of this machine that a container can be sent to."""
    try:
        lines = RESOLVERS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    servers = []
    for line in lines:
        word, _, value = line.strip().partition(" ")
        try:
            address = ipaddress.ip_address(value.strip()) if word == "nameserver" else None
        except ValueError:
            continue
        if address is not None and address.version == 4 and not address.is_loopback:
            servers.append(str(address))
    return servers


async def _iptables(*arguments: str) -> None:
    try:
        process = await asyncio.create_subprocess_exec(
            "iptables",
            "-w",
            "5",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise FirewallError(f"iptables cannot be run: {error.strerror}") from None
    try:
        async with asyncio.timeout(_SECONDS):
            _, errors = await process.communicate()
    except TimeoutError:
        raise FirewallError(f"iptables did not end within {_SECONDS:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        first = errors.decode("utf-8", "replace").strip().partition("\n")[0]
        raise FirewallError(f"iptables {' '.join(arguments)}: {first}")
