"""The proxy on the way to a dispatcher, as the environment names it: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY."""

from __future__ import annotations

import base64
from ipaddress import ip_address
from typing import TypedDict
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass


class Way(TypedDict):
    """What a request is told of the way that it takes. Where the proxy is None, it takes the direct one."""

    proxy: str | None
    proxy_headers: dict[str, str] | None


def way_to(url: str) -> Way:
    """Give the way to a URL. Name and password stand apart from the proxy's URL, which may be logged.

    Nothing on this machine itself is asked for through a proxy, whether NO_PROXY says so or not.
    """
    proxy = _proxy_for(urlsplit(url))
    if not proxy:
        return Way(proxy=None, proxy_headers=None)
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    headers = None
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers = {"Proxy-Authorization": "Basic " + base64.b64encode(login.encode()).decode()}
    return Way(proxy=parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(), proxy_headers=headers)


def _proxy_for(url: SplitResult) -> str | None:
    host = url.hostname or ""
    if _is_this_machine(host) or proxy_bypass(host):
        return None
    proxies = getproxies()
    return proxies.get(url.scheme) or proxies.get("all")


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
