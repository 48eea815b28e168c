"""Browsers: log in with a token, who am I, log out."""

from __future__ import annotations

import math
from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from dispatcher import audit, auth, browser
from dispatcher.auth import Principal
from dispatcher.problem import Problem, unauthenticated
from dispatcher.routes.answers import epoch_seconds_or_null, json
from dispatcher.routes.keys import CONFIG, CORE, LOG_INS, PRINCIPAL, now_ms
from dispatcher.routes.reading import document
from dispatcher.store.access import BrowserSession, Scope


class LogIn(Struct, frozen=True, forbid_unknown_fields=True):
    """A token to log in with."""

    token: Annotated[str, Meta(min_length=1, max_length=1024)]


class WhoView(Struct, frozen=True, rename="camel"):
    """Whoever asks: account, token and scopes.

    `expires` is when the browser's session ends or, where a token was sent, the token; null: never. `csrfToken` is
    what a browser sends as `X-CSRF-Token` with whatever changes something; null where a token was sent.
    """

    account: str
    account_name: str
    administers: bool
    token: str
    token_name: str
    scopes: list[Scope]
    expires: str | None
    csrf_token: str | None


async def log_in(request: web.Request) -> web.StreamResponse:
    """Log a browser in with a token. The cookie of the answer stands for the token until the session ends."""
    app = request.app
    settings, core, now = app[CONFIG].access, app[CORE], now_ms(app)
    browser.check_origin(request, told=False)
    address = browser.address_of(request, behind_proxy=settings.behind_proxy)
    if wait := math.ceil(app[LOG_INS].wait(address)):
        raise Problem("TOO_MANY", "too many log-ins have failed", headers={"Retry-After": str(wait)})
    asked = await document(request, LogIn)
    try:
        token = auth.good(await core.store.token_of(auth.token_hash(asked.token)), now)
    except Problem:
        app[LOG_INS].failed(address)
        raise
    secret = auth.new_token()
    expires_ms = now + int(settings.session * 1000)
    if token.expires_ms is not None:
        expires_ms = min(expires_ms, token.expires_ms)
    line = audit.line(request, "session.begin", token.id, by=Principal(token))
    session = BrowserSession(token.id, now, expires_ms)
    if not await core.store.add_browser_session(session, auth.token_hash(secret), line):
        raise unauthenticated("the token is not known")
    audit.committed(line)
    response = web.Response(status=204)
    secure = browser.is_secure(request, behind_proxy=settings.behind_proxy)
    browser.set_cookie(response, secret, secure=secure, seconds=(expires_ms - now) / 1000)
    return response


async def show_who(request: web.Request, account: str) -> web.StreamResponse:
    """Say who asks: by which account, token and scopes."""
    who = request[PRINCIPAL]
    found = await request.app[CORE].store.account(account)
    token, session = who.token, who.browser
    view = WhoView(
        account=account,
        account_name=account if found is None else found.name,
        administers=found is not None and found.administers and Scope.ADMIN in token.scopes,
        token=token.id,
        token_name=token.name,
        scopes=[scope for scope in Scope if scope in token.scopes],
        expires=epoch_seconds_or_null(token.expires_ms if session is None else session.expires_ms),
        csrf_token=who.csrf,
    )
    response = json(view)
    response.headers["Cache-Control"] = "no-store"
    return response


async def log_out(request: web.Request, _account: str) -> web.StreamResponse:
    """End the browser's session."""
    who, secret = request[PRINCIPAL], browser.secret_of(request)
    if who.browser is None or secret is None:
        raise Problem("CONFLICT", "a token was sent and not the cookie of a browser; tokens are revoked")
    line = audit.line(request, "session.end", who.token.id)
    if await request.app[CORE].store.remove_browser_session(auth.token_hash(secret), line):
        audit.committed(line)
    response = web.Response(status=204)
    browser.forget_cookies(response)
    return response
