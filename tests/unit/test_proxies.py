"""Which requests go through a proxy."""

from __future__ import annotations

import base64

import pytest

from agent.doctor import line
from agent.proxies import way_to

ALL = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ALL:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def proxy_for(url: str) -> str | None:
    return way_to(url)["proxy"]


def test_each_scheme_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """One without a scheme is an HTTP proxy, as for other programs; ALL_PROXY is for what has none of its own."""
    assert proxy_for("https://fernd.example.org") is None
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example.org:3128")
    assert proxy_for("https://fernd.example.org") == "http://proxy.example.org:3128"
    assert proxy_for("http://fernd.example.org") is None
    monkeypatch.setenv("all_proxy", "http://other.example.org:8080")
    assert proxy_for("http://fernd.example.org/v1/node") == "http://other.example.org:8080"


def test_name_and_password_stand_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is logged of a proxy holds neither; a password may have any characters."""
    monkeypatch.setenv("HTTPS_PROXY", "http://me:p%40ss%3Aword@proxy.example.org:3128/")
    way = way_to("https://fernd.example.org")
    assert way["proxy"] == "http://proxy.example.org:3128/"
    login = base64.b64encode(b"me:p@ss:word").decode()
    assert way["proxy_headers"] == {"Proxy-Authorization": f"Basic {login}"}


@pytest.mark.parametrize(
    ("url", "direct"),
    [
        ("https://fernd.example.org:7070/v1/node", True),
        ("https://example.org", True),
        ("https://fernd.example.com", False),
        ("https://10.1.2.3", True),
        ("https://localhost:7070", True),
        ("https://127.0.0.5", True),
        ("https://[::1]:7070", True),
    ],
)
def test_what_is_reached_directly(url: str, direct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What NO_PROXY names, and this machine itself, even where nobody thought of naming it."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.org:3128")
    monkeypatch.setenv("NO_PROXY", "example.org,10.1.2.3")
    assert (proxy_for(url) is None) is direct


def test_what_the_doctor_says_of_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is, but not its password; that plain HTTP seldom gets through, and that SOCKS is not spoken."""
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy.example")
    found = line.proxy(["https://a.example", "https://127.0.0.1:1"])
    assert (found.state, found.seen) == ("ok", "https://a.example by proxy.example")
    assert line.proxy(["https://localhost"]).seen == "none is used"
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    found = line.proxy(["http://a.example"])
    assert (found.state, "NO_PROXY" in found.cure) == ("warning", True)
    monkeypatch.setenv("HTTPS_PROXY", "socks5://me:secret@proxy.example:1080")
    found = line.proxy(["https://a.example"])
    assert (found.state, "secret" in found.seen) == ("failed", False)
