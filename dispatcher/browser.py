"""What is different when a browser asks: a cookie in place of a token, and pages that are not ours.

A browser sends our cookie with every request to us, whoever made it send the request. `SameSite=Strict` keeps
other sites out, but not what other ports of this host serve; and what a function answers is served from here. So
whatever changes something must come from a page of ours by the browser's own word, and carry a token that only
such a page can have read.
"""

from __future__ import annotations

import hashlib
import hmac

from aiohttp import hdrs, web

from dispatcher.problem import Problem

COOKIE = "fernd-session"
SECURE_COOKIE = "__Host-fernd-session"
"""Browsers take a cookie of such a name from this host alone, and by TLS alone."""

COOKIES = frozenset({COOKIE, SECURE_COOKIE})

CSRF_HEADER = "X-CSRF-Token"
FETCH_SITE = "Sec-Fetch-Site"

_SAFE = frozenset({hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS})


def secret_of(request: web.Request) -> str | None:
    """Give what the cookie of a browser that logged in holds. The cookie that cannot be forged goes first."""
    cookies = request.cookies
    return cookies.get(SECURE_COOKIE) or cookies.get(COOKIE) or None


def csrf_of(secret: str) -> str:
    """Give the token against forged requests of a session. It says nothing of the secret."""
    return hmac.new(secret.encode("utf-8", "surrogateescape"), b"fernd csrf", hashlib.sha256).hexdigest()


def check_sender(request: web.Request, secret: str) -> None:
    """See to it that a request which changes something comes from a page of ours.

    Raises:
        Problem: It does not, or does not show it.
    """
    if request.method in _SAFE:
        return
    check_origin(request, told=True)
    sent = request.headers.get(CSRF_HEADER, "")
    if not hmac.compare_digest(sent.encode("utf-8", "surrogateescape"), csrf_of(secret).encode()):
        raise Problem("FORBIDDEN", f"{CSRF_HEADER} is not this session's; GET /v1/session gives it", field=CSRF_HEADER)


def check_origin(request: web.Request, *, told: bool) -> None:
    """See to it that a request does not come from a page of another origin.

    Args:
        told: The request must say where it comes from, as all browsers do.

    Raises:
        Problem: It comes from elsewhere, or does not say.
    """
    site, origin = request.headers.get(FETCH_SITE), request.headers.get(hdrs.ORIGIN)
    if site is not None and site != "same-origin":
        raise Problem("FORBIDDEN", "the request was made by a page of another origin", field=FETCH_SITE)
    # The scheme is left out: a proxy in front may speak TLS where we do not.
    if origin is not None and origin.partition("://")[2].lower() != request.host.lower():
        raise Problem("FORBIDDEN", "the request was made by a page of another origin", field="Origin")
    if told and site is None and origin is None:
        raise Problem("FORBIDDEN", "a browser's request must say its origin", field="Origin")


def is_secure(request: web.Request, *, behind_proxy: bool) -> bool:
    """Say whether a browser's request came by TLS, as far as can be known."""
    if behind_proxy:
        return request.headers.get(hdrs.X_FORWARDED_PROTO, "").rpartition(",")[2].strip().lower() == "https"
    return request.secure


def address_of(request: web.Request, *, behind_proxy: bool) -> str:
    """Give the address that a request came from: with a proxy, the one that the proxy saw."""
    if behind_proxy and (seen := request.headers.getall(hdrs.X_FORWARDED_FOR, [])):
        return seen[-1].rpartition(",")[2].strip()
    return request.remote or ""


def set_cookie(response: web.Response, secret: str, *, secure: bool, seconds: float) -> None:
    """Let a browser keep its session's secret where no script can read it."""
    response.set_cookie(
        SECURE_COOKIE if secure else COOKIE,
        secret,
        max_age=int(seconds),
        path="/",
        secure=secure,
        httponly=True,
        samesite="Strict",
    )


def forget_cookies(response: web.Response) -> None:
    """Let a browser forget its session."""
    for name in (COOKIE, SECURE_COOKIE):
        response.del_cookie(name, path="/", secure=name == SECURE_COOKIE, httponly=True, samesite="Strict")
