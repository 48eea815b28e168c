"""Accounts, their tokens, and who changed what."""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType

from dispatcher import audit, auth
from dispatcher.ids import is_object_id
from dispatcher.problem import Problem, not_found
from dispatcher.routes.answers import epoch_seconds, epoch_seconds_or_null, json, plain
from dispatcher.routes.keys import CORE, IDS, now_ms
from dispatcher.routes.paging import cursor_of, limit_of, page
from dispatcher.routes.reading import document, parameter
from dispatcher.routes.tasks import Created
from dispatcher.store.access import Account, AuditLine, Scope, Token
from dispatcher.store.errors import LastToken, NameTaken

YEAR = 365 * 86_400

Label = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        pattern=r"^[^\x00-\x1f\x7f]*$",
        description="1 to 64 characters, no control characters",
    ),
]
Scopes = Annotated[list[Scope], Meta(min_length=1)]
QueueLength = Annotated[int, Meta(ge=1, le=100_000_000, description="Tasks that may wait")]
Running = Annotated[int, Meta(ge=1, le=100_000_000, description="Tasks that may be with nodes at a time")]
LongestTimeout = Annotated[int, Meta(ge=1, le=900, description="Seconds that a function may ask for")]
MostCpus = Annotated[float, Meta(ge=1, le=64, description="CPUs that a function may ask for")]
MostMemory = Annotated[int, Meta(ge=256, le=16 * 1024 * 1024, description="MiB that a function may ask for")]
MayBePrivileged = Annotated[bool, Meta(description="Whether a function may ask for it")]
ExpiresIn = Annotated[int, Meta(ge=1, le=10 * YEAR, description="Seconds")]


class NewAccount(Struct, frozen=True, forbid_unknown_fields=True):
    """An account to create. No other one may have its name."""

    name: Label


class LimitsView(Struct, frozen=True, rename="camel"):
    """What an account may have by its own limits. Null: what the settings of the dispatcher give to all."""

    queue_length: int | None
    running: int | None
    timeout: int | None
    cpu_count: int | float | None
    mem_size: int | None
    privileged: bool | None


class LimitsChange(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What shall be different about an account's limits; the rest stays. Null takes a limit away."""

    queue_length: QueueLength | UnsetType | None = UNSET
    running: Running | UnsetType | None = UNSET
    timeout: LongestTimeout | UnsetType | None = UNSET
    cpu_count: MostCpus | UnsetType | None = UNSET
    mem_size: MostMemory | UnsetType | None = UNSET
    privileged: MayBePrivileged | UnsetType | None = UNSET


class AccountChange(Struct, frozen=True, forbid_unknown_fields=True):
    """What shall be different about an account."""

    limits: LimitsChange


class AccountView(Struct, frozen=True):
    """An account. Those who administer can see and change the accounts and tokens of all."""

    id: str
    name: str
    administers: bool
    created: str
    limits: LimitsView


class NewToken(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A token to create. Without `expiresIn` it does not expire; without `account` it is for the caller's own."""

    name: Label
    scopes: Scopes
    expires_in: ExpiresIn | None = None
    account: Annotated[str, Meta(max_length=24)] | None = None


class CreatedToken(Struct, frozen=True):
    """A token that was created. `token` is the secret, which is shown once."""

    id: str
    token: str
    expires: str | None


class TokenView(Struct, frozen=True):
    """A token, without its secret. `expires` is null where it does not expire."""

    id: str
    account: str
    name: str
    scopes: list[Scope]
    created: str
    expires: str | None


class ByView(Struct, frozen=True):
    """Who made a change. `token` is null where it was not one of the account's tokens, as `name` says then."""

    account: str
    token: str | None
    name: str


class AuditView(Struct, frozen=True):
    """A change: to a thing of which account, by whom, what, and when."""

    id: str
    time: str
    account: str
    by: ByView
    action: str
    object: str
    detail: str


# Accounts -----------------------------------------------------------------------------------------


async def create_account(request: web.Request, account: str) -> web.StreamResponse:
    """Create an account. It has no token yet."""
    await _administering(request, account)
    asked = await document(request, NewAccount)
    made = Account(request.app[IDS].new(), asked.name, created_ms=now_ms(request.app))
    line = audit.line(request, "account.create", made.id, made.name, account=made.id)
    try:
        await request.app[CORE].store.add_account(made, line)
    except NameTaken:
        raise Problem("CONFLICT", "there is an account of that name already", field="name") from None
    audit.committed(line)
    return json(Created(made.id), 201, f"/v1/account/{made.id}")


async def list_accounts(request: web.Request, account: str) -> web.StreamResponse:
    """List accounts by id: all of them, where the caller administers, and otherwise the caller's own."""
    limit, cursor = limit_of(request), cursor_of(request, is_account_id)
    store = request.app[CORE].store
    own = await _own(request, account)
    rows = await store.accounts(limit + 1, cursor) if own.administers else [own]
    return page(request, rows, _account_view, lambda row: row.id)


async def show_account(request: web.Request, account: str) -> web.StreamResponse:
    """Show an account."""
    own = await _own(request, account)
    return json(_account_view(await _within_reach(request, own, request.match_info["accountId"])))


async def change_account(request: web.Request, account: str) -> web.StreamResponse:
    """Change what an account may have. It holds from the answer on; at other dispatchers within a second or two."""
    await _administering(request, account)
    asked = await document(request, AccountChange)
    found = await _within_reach(request, await _own(request, account), request.match_info["accountId"])
    given = {
        name: limit for name in asked.limits.__struct_fields__ if (limit := getattr(asked.limits, name)) is not UNSET
    }
    limits = msgspec.structs.replace(found.limits, **given)
    if limits == found.limits:
        return web.Response(status=204)
    line = audit.line(request, "account.limit", found.id, f"{found.name}: {_words(given)}", account=found.id)
    if not await request.app[CORE].store.set_account_limits(found.id, limits, line):
        raise not_found("account")
    audit.committed(line)
    await request.app[CORE].refresh_quotas()
    return web.Response(status=204)


# Tokens -------------------------------------------------------------------------------------------


async def create_token(request: web.Request, account: str) -> web.StreamResponse:
    """Create a token for the caller's account or, where the caller administers, for any."""
    asked = await document(request, NewToken)
    whose = account
    if asked.account is not None:
        whose = (await _within_reach(request, await _own(request, account), asked.account)).id
    secret, now = auth.new_token(), now_ms(request.app)
    expires_ms = None if asked.expires_in is None else now + asked.expires_in * 1000
    token = Token(request.app[IDS].new(), whose, asked.name, frozenset(asked.scopes), now, expires_ms)
    detail = f"{token.name}: {', '.join(_in_order(token.scopes))}"
    line = audit.line(request, "token.create", token.id, detail, account=whose)
    await request.app[CORE].store.add_token(token, auth.token_hash(secret), line)
    audit.committed(line)
    response = json(CreatedToken(token.id, secret, epoch_seconds_or_null(expires_ms)), 201, f"/v1/token/{token.id}")
    response.headers["Cache-Control"] = "no-store"
    return response


async def list_tokens(request: web.Request, account: str) -> web.StreamResponse:
    """List tokens, newest first: of all accounts, where the caller administers, and otherwise of the caller's own."""
    limit, cursor = limit_of(request), cursor_of(request, is_object_id)
    whose = await _asked_for(request, account)
    rows = await request.app[CORE].store.tokens(whose, limit + 1, cursor)
    return page(request, rows, _token_view, lambda row: row.id)


async def show_token(request: web.Request, account: str) -> web.StreamResponse:
    """Show a token."""
    return json(_token_view(await _token(request, account)))


async def revoke_token(request: web.Request, account: str) -> web.StreamResponse:
    """Revoke a token at once, and log out the browsers that logged in with it."""
    token = await _token(request, account)
    line = audit.line(request, "token.revoke", token.id, token.name, account=token.account)
    try:
        revoked = await request.app[CORE].store.revoke_token(token.id, line)
    except LastToken:
        raise Problem("CONFLICT", "nobody could administer any more without this token") from None
    if not revoked:
        raise not_found("token")
    audit.committed(line)
    return web.Response(status=204)


# Audit --------------------------------------------------------------------------------------------


async def list_audit(request: web.Request, account: str) -> web.StreamResponse:
    """List changes, newest first: of all accounts, where the caller administers, and otherwise of the caller's own."""
    limit, cursor = limit_of(request), cursor_of(request, is_object_id)
    whose = await _asked_for(request, account)
    rows = await request.app[CORE].store.audit(whose, limit + 1, cursor)
    return page(request, rows, _audit_view, lambda row: row.id)


# Reach --------------------------------------------------------------------------------------------


def is_account_id(text: str) -> bool:
    """Say whether a text has the shape of an account's id."""
    return text.isascii() and text.isalnum() and text == text.lower() and len(text) <= 24


async def _own(request: web.Request, account: str) -> Account:
    found = await request.app[CORE].store.account(account)
    if found is None:
        raise not_found("account")
    return found


async def _administering(request: web.Request, account: str) -> None:
    if not (await _own(request, account)).administers:
        raise Problem("FORBIDDEN", "the token's account does not administer the others")


async def _within_reach(request: web.Request, own: Account, asked_for: str) -> Account:
    """Give an account that the caller may see: the own one, or any where that administers."""
    if asked_for == own.id:
        return own
    found = await request.app[CORE].store.account(asked_for) if own.administers else None
    if found is None:
        raise not_found("account")
    return found


async def _asked_for(request: web.Request, account: str) -> str | None:
    """Give the account of which a list is asked for; None for all."""
    own, asked_for = await _own(request, account), parameter(request, "account")
    if asked_for is not None:
        return (await _within_reach(request, own, asked_for)).id
    return None if own.administers else own.id


async def _token(request: web.Request, account: str) -> Token:
    token_id = request.match_info["id"]
    own = await _own(request, account)
    whose = None if own.administers else own.id
    token = await request.app[CORE].store.token(whose, token_id) if is_object_id(token_id) else None
    if token is None:
        raise not_found("token")
    return token


# Views --------------------------------------------------------------------------------------------


def _account_view(account: Account) -> AccountView:
    limits = LimitsView(*msgspec.structs.astuple(account.limits))
    return AccountView(account.id, account.name, account.administers, epoch_seconds(account.created_ms), limits)


def _words(limits: dict[str, float | bool | None]) -> str:
    """Say what was changed, for people."""
    said = {None: "none", True: "yes", False: "no"}
    return ", ".join(
        f"{name} {said[limit] if limit is None or isinstance(limit, bool) else plain(limit)}"
        for name, limit in limits.items()
    )


def _token_view(token: Token) -> TokenView:
    return TokenView(
        id=token.id,
        account=token.account,
        name=token.name,
        scopes=_in_order(token.scopes),
        created=epoch_seconds(token.created_ms),
        expires=epoch_seconds_or_null(token.expires_ms),
    )


def _audit_view(line: AuditLine) -> AuditView:
    by = ByView(line.by_account, line.by_token, line.by_name)
    return AuditView(line.id, epoch_seconds(line.at_ms), line.account, by, line.action, line.object, line.detail)


def _in_order(scopes: frozenset[Scope]) -> list[Scope]:
    return [scope for scope in Scope if scope in scopes]
