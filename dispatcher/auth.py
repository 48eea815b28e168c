"""Who is asking.

A token is 32 random bytes. Only its SHA-256 is stored and looked up, so that neither a copy of the
database nor the time that a look-up takes says anything about a token.
"""

from __future__ import annotations

import hashlib
import secrets

from aiohttp import hdrs, web

from dispatcher.problem import Problem, unauthenticated
from dispatcher.store.base import Node, Store


def new_token() -> str:
    """Make a token. It is shown once."""
    return secrets.token_urlsafe(32)


def token_hash(token: str) -> bytes:
    """Give what is stored of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


async def account_of(request: web.Request, store: Store) -> str:
    """Find the account whose token a request carries.

    Raises:
        Problem: There is none.
    """
    account = await store.account_of_token(token_hash(_token_of(request)))
    if account is None:
        raise unauthenticated("the token is not known")
    return account


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
