"""Accounts, tokens, browsers, and who changed what."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Concatenate, ParamSpec, TypeVar

import asyncpg

from dispatcher.store import rows
from dispatcher.store.access import Account, AccountLimits, AuditLine, BrowserSession, Scope, Token
from dispatcher.store.errors import LastToken, NameTaken
from dispatcher.store.postgres.connections import Db
from dispatcher.store.postgres.words import storable

P = ParamSpec("P")
T = TypeVar("T")


async def audited(
    db: Db,
    line: AuditLine | None,
    work: Callable[Concatenate[Db, P], Awaitable[T]],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Make a change and, where it was one, write its line: both are in one transaction."""
    result = await work(db, *args, **kwargs)
    if result is not False and line is not None:
        await add_lines(db, [line])
    return result


# accounts


async def has_accounts(db: Db) -> bool:
    """See `AccessStore.has_accounts`."""
    return await db.fetchrow("SELECT 1 FROM account LIMIT 1") is not None


async def add_account(db: Db, account: Account) -> None:
    """See `AccessStore.add_account`."""
    try:
        await db.execute(
            "INSERT INTO account (id, name, administers, created_ms, limits) VALUES ($1, $2, $3, $4, $5)",
            *(account.id, storable(account.name), account.administers, account.created_ms),
            rows.account_limits_column(account.limits),
        )
    except asyncpg.UniqueViolationError:
        raise NameTaken(account.name) from None


async def account(db: Db, account_id: str) -> Account | None:
    """See `AccessStore.account`."""
    statement = f"SELECT {rows.ACCOUNT} FROM account WHERE id = $1"  # noqa: S608 - constants
    row = await db.fetchrow(statement, storable(account_id))
    return None if row is None else rows.account(row)


async def accounts(db: Db, limit: int, after: str | None) -> list[Account]:
    """See `AccessStore.accounts`."""
    found = await db.fetch(
        f"SELECT {rows.ACCOUNT} FROM account WHERE $1::text IS NULL OR id > $1 ORDER BY id LIMIT $2",  # noqa: S608
        *(after, limit),
    )
    return [rows.account(row) for row in found]


async def account_limits(db: Db) -> dict[str, AccountLimits]:
    """See `AccessStore.account_limits`."""
    found = await db.fetch("SELECT id, limits FROM account WHERE limits IS NOT NULL")
    return {account_id: rows.account_limits(limits) for account_id, limits in found}


async def set_account_limits(db: Db, account_id: str, limits: AccountLimits) -> bool:
    """See `AccessStore.set_account_limits`."""
    changed = await db.fetchval(
        "UPDATE account SET limits = $1 WHERE id = $2 RETURNING 1", rows.account_limits_column(limits), account_id
    )
    return changed is not None


# tokens

_TOKENS = f"SELECT {rows.TOKEN} FROM token t"  # noqa: S608 - constants


async def add_token(db: Db, token: Token, secret_hash: bytes) -> None:
    """See `AccessStore.add_token`."""
    await db.execute(
        "INSERT INTO token (id, hash, account, name, scopes, created_ms, expires_ms)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7)",
        *(token.id, secret_hash, token.account, storable(token.name), rows.words(token.scopes)),
        *(token.created_ms, token.expires_ms),
    )


async def token_of(db: Db, secret_hash: bytes) -> Token | None:
    """See `AccessStore.token_of`."""
    row = await db.fetchrow(f"{_TOKENS} WHERE t.hash = $1", secret_hash)
    return None if row is None else rows.token(row)


async def token(db: Db, account: str | None, token_id: str) -> Token | None:
    """See `AccessStore.token`."""
    row = await db.fetchrow(f"{_TOKENS} WHERE t.id = $1 AND ($2::text IS NULL OR t.account = $2)", token_id, account)
    return None if row is None else rows.token(row)


async def tokens(db: Db, account: str | None, limit: int, before: str | None) -> list[Token]:
    """See `AccessStore.tokens`."""
    whose = "$3::text IS NULL" if account is None else "t.account = $3"
    found = await db.fetch(
        f"{_TOKENS} WHERE ($1::text IS NULL OR t.id < $1) AND {whose} ORDER BY t.id DESC LIMIT $2",
        *(before, limit, account),
    )
    return [rows.token(row) for row in found]


async def revoke_token(db: Db, token_id: str) -> bool:
    """See `AccessStore.revoke_token`. Its browser sessions go with the row."""
    # Locked, so that of the last two tokens, revoked at the same moment, one stays.
    found = await db.fetch(
        "SELECT t.id, t.scopes FROM token t JOIN account a ON a.id = t.account"
        " WHERE a.administers AND t.expires_ms IS NULL ORDER BY t.id FOR UPDATE OF t"
    )
    if {row[0] for row in found if Scope.ADMIN in row[1].split()} == {token_id}:
        raise LastToken(token_id)
    return await db.fetchval("DELETE FROM token WHERE id = $1 RETURNING id", token_id) is not None


# browsers


async def add_browser_session(db: Db, session: BrowserSession, secret_hash: bytes) -> bool:
    """See `AccessStore.add_browser_session`."""
    await db.execute("DELETE FROM browser_session WHERE expires_ms <= $1", session.created_ms)
    added = await db.fetchval(
        "INSERT INTO browser_session (hash, token, created_ms, expires_ms)"
        " SELECT $1::bytea, id, $2::bigint, $3::bigint FROM token WHERE id = $4 RETURNING token",
        *(secret_hash, session.created_ms, session.expires_ms, session.token),
    )
    return added is not None


async def browser_session(db: Db, secret_hash: bytes) -> tuple[BrowserSession, Token] | None:
    """See `AccessStore.browser_session`."""
    row = await db.fetchrow(
        f"SELECT s.created_ms, s.expires_ms, {rows.TOKEN} FROM browser_session s JOIN token t ON t.id = s.token"  # noqa: S608
        " WHERE s.hash = $1",
        secret_hash,
    )
    if row is None:
        return None
    created_ms, expires_ms, *columns = row
    token = rows.token(columns)
    return BrowserSession(token.id, created_ms, expires_ms), token


async def remove_browser_session(db: Db, secret_hash: bytes) -> bool:
    """See `AccessStore.remove_browser_session`."""
    return (await db.fetchval("DELETE FROM browser_session WHERE hash = $1 RETURNING token", secret_hash)) is not None


# join tokens


async def add_join_token(db: Db, token_hash: bytes, account: str, created_ms: int, expires_ms: int) -> None:
    """See `AccessStore.add_join_token`. Expired ones go away here, so that the table stays small."""
    await db.execute("DELETE FROM join_token WHERE expires_ms <= $1", created_ms)
    await db.execute(
        "INSERT INTO join_token (hash, account, created_ms, expires_ms) VALUES ($1, $2, $3, $4)",
        *(token_hash, account, created_ms, expires_ms),
    )


async def account_of_join_token(db: Db, token_hash: bytes, now_ms: int) -> str | None:
    """See `AccessStore.account_of_join_token`."""
    account: str | None = await db.fetchval(
        "SELECT account FROM join_token WHERE hash = $1 AND expires_ms > $2", token_hash, now_ms
    )
    return account


# audit


async def add_lines(db: Db, lines: Sequence[AuditLine]) -> None:
    """Write the lines of changes that were made."""
    await db.executemany(
        f"INSERT INTO audit ({rows.AUDIT}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",  # noqa: S608 - constants
        [[storable(it) if isinstance(it, str) else it for it in rows.audit_columns(line)] for line in lines],
    )


async def audit(db: Db, account: str | None, limit: int, before: str | None) -> list[AuditLine]:
    """See `AccessStore.audit`."""
    whose = "$3::text IS NULL" if account is None else "account = $3"
    found = await db.fetch(
        f"SELECT {rows.AUDIT} FROM audit WHERE ($1::text IS NULL OR id < $1) AND {whose} ORDER BY id DESC LIMIT $2",  # noqa: S608
        *(before, limit, account),
    )
    return [AuditLine(*row) for row in found]


async def remove_audit(db: Db, before_ms: int, limit: int) -> int:
    """See `AccessStore.remove_audit`. What another dispatcher is removing is passed over."""
    removed = await db.fetch(
        "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at_ms < $1 ORDER BY at_ms LIMIT $2"
        " FOR UPDATE SKIP LOCKED) RETURNING 1",
        *(before_ms, limit),
    )
    return len(removed)
