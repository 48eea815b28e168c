"""Who may come in, and who changed what: the part of a store that is about access, and its rows.

Of a secret (a token, or the cookie of a browser) a store sees the SHA-256 alone.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

import msgspec
from msgspec import Struct


class Scope(StrEnum):
    """What a token may be used for."""

    TASKS = "tasks"
    FUNCTIONS = "functions"
    NODES = "nodes"
    ADMIN = "admin"


class AccountLimits(Struct, frozen=True, omit_defaults=True):
    """What an account may have. None is no limit.

    Attributes:
        queue_length: Tasks that may wait.
        running: Tasks that may be with nodes at a time.
        timeout: Seconds that its functions may ask for.
        cpu_count: CPUs that its functions may ask for.
        mem_size: MiB that its functions may ask for.
        privileged: Whether its functions may ask for it.
    """

    queue_length: int | None = None
    running: int | None = None
    timeout: int | None = None
    cpu_count: float | None = None
    mem_size: int | None = None
    privileged: bool | None = None

    def over(self, others: AccountLimits) -> AccountLimits:
        """Give these limits, and the others' where there is none."""
        own = {name: limit for name in self.__struct_fields__ if (limit := getattr(self, name)) is not None}
        return msgspec.structs.replace(others, **own)


NO_LIMITS = AccountLimits()


class Account(Struct, frozen=True):
    """Whoever owns functions, tasks and nodes.

    Attributes:
        name: No other account has it.
        administers: Its tokens with the scope `Scope.ADMIN` are good for the accounts and tokens of all.
        limits: Its own. Where it has none, those hold that the dispatcher's settings give to all.
    """

    id: str
    name: str
    administers: bool = False
    created_ms: int = 0
    limits: AccountLimits = NO_LIMITS


class Token(Struct, frozen=True):
    """A token, without its secret.

    Attributes:
        id: In ObjectId layout.
        expires_ms: From then on it is good for nothing. None: it does not expire.
    """

    id: str
    account: str
    name: str
    scopes: frozenset[Scope]
    created_ms: int
    expires_ms: int | None = None


class BrowserSession(Struct, frozen=True):
    """A browser that logged in with a token. It ends with that token, too."""

    token: str
    created_ms: int
    expires_ms: int


class AuditLine(Struct, frozen=True):
    """A change: who made it, what it was, and when. No secret is in it.

    Attributes:
        id: In ObjectId layout, so that lines sort by time.
        account: Whose things were changed.
        by_account: The account of whoever changed them.
        by_token: Id of the token that it was done with; None where it was something else.
        by_name: The token's name, or what else it was.
        action: Kind of the object and what was done to it, such as ``function.change``.
        object: Id of what was changed.
        detail: More of it for people, such as its name and which fields were changed.
    """

    id: str
    at_ms: int
    account: str
    by_account: str
    by_token: str | None
    by_name: str
    action: str
    object: str
    detail: str = ""


class AccessStore(Protocol):
    """What a store knows of access. Every method may raise `StoreUnavailable`.

    Whatever changes something takes an `AuditLine`. It is committed together with the change, and
    only if something was changed: not where the method raises or gives False.
    """

    # accounts

    async def has_accounts(self) -> bool:
        """Say whether this store was ever set up."""

    async def add_account(self, account: Account, audit: AuditLine | None = None) -> None:
        """Make an account.

        Raises:
            NameTaken: Another account has its name.
        """

    async def account(self, account_id: str) -> Account | None:
        """Find an account."""

    async def accounts(self, limit: int, after: str | None) -> list[Account]:
        """List accounts by id, starting above ``after``."""

    async def account_limits(self) -> dict[str, AccountLimits]:
        """Give the limits of all accounts that have some of their own."""

    async def set_account_limits(self, account_id: str, limits: AccountLimits, audit: AuditLine | None = None) -> bool:
        """Let an account have these limits of its own; False where there is no such account."""

    # tokens

    async def add_token(self, token: Token, secret_hash: bytes, audit: AuditLine | None = None) -> None:
        """Let whoever has the secret with this hash act as the token."""

    async def token_of(self, secret_hash: bytes) -> Token | None:
        """Find a token by its secret, expired or not. One that was revoked is not there."""

    async def token(self, account: str | None, token_id: str) -> Token | None:
        """Find a token by its id: of one account, or of any."""

    async def tokens(self, account: str | None, limit: int, before: str | None) -> list[Token]:
        """List tokens, of one account or of all, newest first, starting below the id ``before``."""

    async def revoke_token(self, token_id: str, audit: AuditLine | None = None) -> bool:
        """Remove a token, and with it the browser sessions that were begun with it; False where there is none.

        Raises:
            LastToken: It has `Scope.ADMIN`, its account administers, it does not expire, and no other token is
                like that.
        """

    # browsers

    async def add_browser_session(
        self, session: BrowserSession, secret_hash: bytes, audit: AuditLine | None = None
    ) -> bool:
        """Let whoever has the secret with this hash act as the session's token; False where that is gone.

        Sessions that have expired when this one was created are removed, so that few are kept.
        """

    async def browser_session(self, secret_hash: bytes) -> tuple[BrowserSession, Token] | None:
        """Find a session and its token, expired or not."""

    async def remove_browser_session(self, secret_hash: bytes, audit: AuditLine | None = None) -> bool:
        """End a session; False where there is none."""

    # join tokens

    async def add_join_token(
        self, token_hash: bytes, account: str, created_ms: int, expires_ms: int, audit: AuditLine | None = None
    ) -> None:
        """Let the token with this hash join nodes to an account until it expires."""

    async def account_of_join_token(self, token_hash: bytes, now_ms: int) -> str | None:
        """Find for whom a join token that has not expired may join nodes."""

    # audit

    async def audit(self, account: str | None, limit: int, before: str | None) -> list[AuditLine]:
        """List changes, to things of one account or of all, newest first, starting below the id ``before``."""

    async def remove_audit(self, before_ms: int, limit: int) -> int:
        """Remove lines older than a time; give how many there were."""
