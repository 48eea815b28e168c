"""Who is asking.

A token is 32 random bytes, and so is what a browser's cookie holds. Only the SHA-256 of either is
stored and looked up, so that neither a copy of the database nor the time that a look-up takes says
anything about it.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection

from aiohttp import hdrs, web
from msgspec import Struct

from dispatcher import browser
from dispatcher.lookups import Lookups
from dispatcher.problem import Problem, unauthenticated
from dispatcher.store.access import BrowserSession, Scope, Token
from dispatcher.store.base import Store
from dispatcher.store.records import Node


class Principal(Struct, frozen=True):
    """Who sent a request.

    Attributes:
        token: What it was proved with, at first hand or by a browser that had logged in with it.
        browser: The browser's session; None where the request carried the token itself.
        csrf: What a request of this browser that changes something carries, too.
    """

    token: Token
    browser: BrowserSession | None = None
    csrf: str | None = None

    @property
    def account(self) -> str:
        """The account that the token speaks for."""
        return self.token.account


def new_token() -> str:
    """Make a secret: of a token, a node or a browser. It is shown once."""
    return secrets.token_urlsafe(32)


def token_hash(token: str) -> bytes:
    """Give what is stored of a secret."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


async def principal_of(request: web.Request, store: Store, lookups: Lookups, now_ms: int) -> Principal:
    """Find who sent a request: by its ``Authorization``, and where it has none by the cookie of a browser.

    Raises:
        Problem: Nobody is known by it, or another page has made the browser send it.
    """
    secret = browser.secret_of(request) if hdrs.AUTHORIZATION not in request.headers else None
    if secret is None:
        return Principal(good(await lookups.token_of(token_hash(_token_of(request))), now_ms))
    found = await store.browser_session(token_hash(secret))
    if found is None or found[0].expires_ms <= now_ms:
        raise unauthenticated("the browser's session has ended; log in again")
    session, token = found
    browser.check_sender(request, secret)
    return Principal(good(token, now_ms), session, browser.csrf_of(secret))


def good(token: Token | None, now_ms: int) -> Token:
    """Give a token that can be used.

    Raises:
        Problem: There is none, or it has expired.
    """
    if token is None:
        raise unauthenticated("the token is not known")
    if token.expires_ms is not None and token.expires_ms <= now_ms:
        raise unauthenticated("the token has expired")
    return token


def check_scope(principal: Principal, scopes: Collection[Scope]) -> None:
    """Let a principal pass that has one of the scopes.

    Raises:
        Problem: It has none of them.
    """
    if not principal.token.scopes.intersection(scopes):
        needed = " or ".join(scope for scope in Scope if scope in scopes)
        raise Problem("FORBIDDEN", f"the token has not the scope that this needs: {needed}")


async def account_of_join_token(request: web.Request, store: Store, now_ms: int) -> str:
    """Find the account to which the join token of a request may join nodes.

    Raises:
        Problem: There is none.
    """
    account = await store.account_of_join_token(token_hash(_token_of(request)), now_ms)
    if account is None:
        raise unauthenticated("the join token is not known or has expired")
    return account


async def node_of(request: web.Request, store: Store, node_id: str) -> Node:
    """Find the node of this id whose credential a request carries.

    Raises:
        Problem: There is none, or it was removed.
    """
    node = await store.node_of_credential(node_id, token_hash(_token_of(request)))
    if node is None:
        raise unauthenticated("the credential is not known for this node")
    if node.disabled:
        raise Problem("FORBIDDEN", "this node was removed; its owner can restore it")
    return node


def _token_of(request: web.Request) -> str:
    """Read the token from ``Authorization: <token>`` or ``Authorization: Bearer <token>``."""
    values = request.headers.getall(hdrs.AUTHORIZATION, [])
    if len(values) != 1:
        raise unauthenticated("one Authorization header with a token is needed")
    words = values[0].split()
    if len(words) == 2 and words[0].lower() == "bearer":
        words = words[1:]
    if len(words) != 1:
        raise unauthenticated("Authorization must be a token, or Bearer and a token")
    return words[0]
