"""The line to the dispatchers: names, proxies, certificates, answers, and whose clock is right."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from urllib.parse import urlsplit

import aiohttp

from agent.doctor.findings import Finding
from agent.proxies import way_to

SECONDS = 5.0
"""For each name, and for each dispatcher to answer."""

CLOCK_WARNING = 2.0
CLOCK_FAILED = 60.0
"""A certificate that was just made is not valid yet for a clock that is so far behind."""


_PROXY_CURE = "check HTTPS_PROXY with its name and password, or let NO_PROXY name the dispatcher"


async def look_at(urls: Sequence[str]) -> list[Finding]:
    """Look at the line to dispatchers, one of which is enough."""
    names = [await _name(way_to(url)["proxy"] or url) for url in urls]
    answers, clock = await _answers(urls)
    return [_of_all("dns", names), proxy(urls), _certificates(urls), _of_all("dispatcher", answers), clock]


def _of_all(check: str, findings: Sequence[Finding]) -> Finding:
    """Make one finding of those of all dispatchers: the node goes on as long as one of them is well."""
    ill = [finding for finding in findings if finding.state != "ok"]
    seen = "; ".join(finding.seen for finding in findings)
    if not ill:
        return Finding(check, "ok", seen)
    return Finding(check, "failed" if len(ill) == len(findings) else "warning", seen, ill[0].cure)


async def _name(url: str) -> Finding:
    host = urlsplit(url).hostname or ""
    try:
        ip_address(host)
    except ValueError:
        pass
    else:
        return Finding("dns", "ok", f"{host} is an address")
    try:
        async with asyncio.timeout(SECONDS):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except TimeoutError:
        why = f"no answer within {SECONDS:g} s"
    except OSError as error:
        why = error.strerror or str(error)
    else:
        return Finding("dns", "ok", f"{host} is {', '.join(sorted({str(each[4][0]) for each in found}))}")
    return Finding(
        "dns", "failed", f"{host}: {why}", "check the name, /etc/resolv.conf, and the way to the name server"
    )


def proxy(urls: Sequence[str]) -> Finding:
    """Say which dispatchers are spoken to through a proxy."""
    ways = {url: urlsplit(way) for url in urls if (way := way_to(url)["proxy"]) is not None}
    if not ways:
        return Finding("proxy", "ok", "none is used")
    seen = "; ".join(f"{url} by {way.netloc}" for url, way in ways.items())
    if any(way.scheme not in {"http", "https"} for way in ways.values()):
        cure = "name an HTTP proxy in HTTPS_PROXY, or let NO_PROXY name the dispatcher"
        return Finding("proxy", "failed", f"{seen}; this is no HTTP proxy", cure)
    if any(url.startswith("http:") for url in ways):
        cure = "give the dispatcher an https address, or let NO_PROXY name it"
        return Finding("proxy", "warning", f"{seen}; without TLS a session seldom gets through one", cure)
    return Finding("proxy", "ok", seen)


def _certificates(urls: Sequence[str]) -> Finding:
    if not any(url.startswith("https:") for url in urls):
        return Finding("ca", "ok", "not needed: no dispatcher is spoken to with TLS")
    paths = ssl.get_default_verify_paths()
    named = os.environ.get(paths.openssl_cafile_env)
    if named and paths.cafile is None:
        cure = "put the authorities' certificates there, for the agent's user to read"
        return Finding("ca", "failed", f"{paths.openssl_cafile_env}: {named} is not there", cure)
    known = len(ssl.create_default_context().get_ca_certs())
    place = paths.cafile or paths.capath
    if not known and not paths.capath:
        return Finding("ca", "failed", "no authority is trusted", "install ca-certificates, or set SSL_CERT_FILE")
    return Finding("ca", "ok", f"{known or 'those of'} authorities, of {place}")


async def _answers(urls: Sequence[str]) -> tuple[list[Finding], Finding]:
    """Ask each dispatcher how it is, and take the time from the first that says it."""
    answers: list[Finding] = []
    clock = Finding("clock", "skipped", "no dispatcher told the time")
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SECONDS)) as http:
        for url in urls:
            answer, told = await _ask(http, url)
            answers.append(answer)
            if told is not None and clock.state == "skipped":
                clock = _clock(told)
    return answers, clock


async def _ask(http: aiohttp.ClientSession, url: str) -> tuple[Finding, float | None]:
    begun, sent = time.monotonic(), time.time()
    cure = "see that the dispatcher runs, and that its address and port can be reached from here"
    told = None
    try:
        async with http.get(f"{url}/readyz", allow_redirects=False, **way_to(url)) as response:
            took = (time.monotonic() - begun) * 1000
            told = _offset(response.headers.get("Date"), sent, time.time())
            if response.status == 200:
                return Finding("dispatcher", "ok", f"{url} is ready, after {took:.0f} ms"), told
            why = f"answered {response.status}"
    except TimeoutError:
        why = f"no answer within {SECONDS:g} s"
    except aiohttp.ClientConnectorCertificateError as error:
        why = f"its certificate is not trusted: {error.certificate_error}"
        cure = "install the authority's certificate (update-ca-certificates), or set SSL_CERT_FILE; check the clock"
    except aiohttp.ClientProxyConnectionError as error:
        why, cure = f"the proxy cannot be reached: {error.os_error.strerror}", _PROXY_CURE
    except aiohttp.ClientHttpProxyError as error:
        why, cure = f"the proxy answered {error.status}", _PROXY_CURE
    except aiohttp.ClientConnectorError as error:
        why = error.os_error.strerror or str(error)
    except (aiohttp.ClientError, OSError) as error:
        why = str(error)
    return Finding("dispatcher", "failed", f"{url}: {why}", cure), told


def _offset(date: str | None, sent: float, received: float) -> float | None:
    """Say by how many seconds the peer's clock is surely ahead of ours (or behind, where negative); 0: by none.

    A date has whole seconds, and was written at some moment between the question and its answer.
    """
    if date is None:
        return None
    try:
        told = parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None
    if told > received:
        return told - received
    return min(0.0, told + 1 - sent)


def _clock(offset: float) -> Finding:
    if abs(offset) < CLOCK_WARNING:
        return Finding("clock", "ok", "agrees with the dispatcher's, as far as whole seconds tell")
    side = "behind" if offset > 0 else "ahead of"
    seen = f"{abs(offset):.0f} s {side} the dispatcher's"
    cure = "let the clock be set: `timedatectl set-ntp true`, or chrony"
    return Finding("clock", "failed" if abs(offset) >= CLOCK_FAILED else "warning", seen, cure)
