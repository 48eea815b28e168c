"""Accounts, tokens, browsers, and who changed what. Statements of `SqliteStore`, run on its threads."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from dispatcher.store import rows
from dispatcher.store.access import Account, AccountLimits, AuditLine, BrowserSession, Scope, Token
from dispatcher.store.errors import LastToken, NameTaken

P = ParamSpec("P")
T = TypeVar("T")


def audited(
    db: sqlite3.Connection,
    line: AuditLine | None,
    work: Callable[Concatenate[sqlite3.Connection, P], T],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Make a change and, where it was one, write its line: both are in one transaction."""
    result = work(db, *args, **kwargs)
    if result is not False:
        add_line(db, line)
    return result


# accounts


def has_accounts(db: sqlite3.Connection) -> bool:
    """See `AccessStore.has_accounts`."""
    return db.execute("SELECT 1 FROM account LIMIT 1").fetchone() is not None


def add_account(db: sqlite3.Connection, account: Account) -> None:
    """See `AccessStore.add_account`."""
    if db.execute("SELECT 1 FROM account WHERE name = ?", (account.name,)).fetchone() is not None:
        raise NameTaken(account.name)
    db.execute(
        "INSERT INTO account (id, name, administers, created_ms, limits) VALUES (?, ?, ?, ?, ?)",
        (
            account.id,
            account.name,
            account.administers,
            account.created_ms,
            rows.account_limits_column(account.limits),
        ),
    )


def account(db: sqlite3.Connection, account_id: str) -> Account | None:
    """See `AccessStore.account`."""
    row = db.execute(f"SELECT {rows.ACCOUNT} FROM account WHERE id = ?", (account_id,)).fetchone()  # noqa: S608
    return None if row is None else rows.account(row)


def accounts(db: sqlite3.Connection, limit: int, after: str | None) -> list[Account]:
    """See `AccessStore.accounts`."""
    found = db.execute(
        f"SELECT {rows.ACCOUNT} FROM account WHERE id > coalesce(?, '') ORDER BY id LIMIT ?",  # noqa: S608
        (after, limit),
    )
    return [rows.account(row) for row in found]


def account_limits(db: sqlite3.Connection) -> dict[str, AccountLimits]:
    """See `AccessStore.account_limits`."""
    found = db.execute("SELECT id, limits FROM account WHERE limits IS NOT NULL")
    return {account_id: rows.account_limits(limits) for account_id, limits in found}


def set_account_limits(db: sqlite3.Connection, account_id: str, limits: AccountLimits) -> bool:
    """See `AccessStore.set_account_limits`."""
    changed = db.execute("UPDATE account SET limits = ? WHERE id = ?", (rows.account_limits_column(limits), account_id))
    return changed.rowcount == 1


# tokens

_TOKENS = f"SELECT {rows.TOKEN} FROM token t"  # noqa: S608 - constants


def add_token(db: sqlite3.Connection, token: Token, secret_hash: bytes) -> None:
    """See `AccessStore.add_token`."""
    db.execute(
        "INSERT INTO token (id, hash, account, name, scopes, created_ms, expires_ms) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            token.id,
            secret_hash,
            token.account,
            token.name,
            rows.words(token.scopes),
            token.created_ms,
            token.expires_ms,
        ),
    )


def token_of(db: sqlite3.Connection, secret_hash: bytes) -> Token | None:
    """See `AccessStore.token_of`."""
    row = db.execute(f"{_TOKENS} WHERE t.hash = ?", (secret_hash,)).fetchone()
    return None if row is None else rows.token(row)


def token(db: sqlite3.Connection, account: str | None, token_id: str) -> Token | None:
    """See `AccessStore.token`."""
    row = db.execute(f"{_TOKENS} WHERE t.id = ? AND t.account = coalesce(?, t.account)", (token_id, account)).fetchone()
    return None if row is None else rows.token(row)


def tokens(db: sqlite3.Connection, account: str | None, limit: int, before: str | None) -> list[Token]:
    """See `AccessStore.tokens`."""
    whose = "" if account is None else "AND t.account = :account"
    found = db.execute(
        f"{_TOKENS} WHERE t.id < coalesce(:before, '~') {whose} ORDER BY t.id DESC LIMIT :limit",
        {"account": account, "before": before, "limit": limit},
    )
    return [rows.token(row) for row in found]


def revoke_token(db: sqlite3.Connection, token_id: str) -> bool:
    """See `AccessStore.revoke_token`. Its browser sessions go with the row."""
    administering = {
        row[0]
        for row in db.execute(
            "SELECT t.id, t.scopes FROM token t JOIN account a ON a.id = t.account"
            " WHERE a.administers AND t.expires_ms IS NULL"
        )
        if Scope.ADMIN in row[1].split()
    }
    if administering == {token_id}:
        raise LastToken(token_id)
    return db.execute("DELETE FROM token WHERE id = ?", (token_id,)).rowcount == 1


# browsers


def add_browser_session(db: sqlite3.Connection, session: BrowserSession, secret_hash: bytes) -> bool:
    """See `AccessStore.add_browser_session`."""
    db.execute("DELETE FROM browser_session WHERE expires_ms <= ?", (session.created_ms,))
    added = db.execute(
        "INSERT INTO browser_session (hash, token, created_ms, expires_ms) SELECT ?, id, ?, ? FROM token WHERE id = ?",
        (secret_hash, session.created_ms, session.expires_ms, session.token),
    )
    return added.rowcount == 1


def browser_session(db: sqlite3.Connection, secret_hash: bytes) -> tuple[BrowserSession, Token] | None:
    """See `AccessStore.browser_session`."""
    row = db.execute(
        f"SELECT s.created_ms, s.expires_ms, {rows.TOKEN} FROM browser_session s JOIN token t ON t.id = s.token"  # noqa: S608
        " WHERE s.hash = ?",
        (secret_hash,),
    ).fetchone()
    if row is None:
        return None
    token = rows.token(row[2:])
    return BrowserSession(token.id, row[0], row[1]), token


def remove_browser_session(db: sqlite3.Connection, secret_hash: bytes) -> bool:
    """See `AccessStore.remove_browser_session`."""
    return db.execute("DELETE FROM browser_session WHERE hash = ?", (secret_hash,)).rowcount == 1


# join tokens


def add_join_token(db: sqlite3.Connection, token_hash: bytes, account: str, created_ms: int, expires_ms: int) -> None:
    """See `AccessStore.add_join_token`. Expired ones go away here, so that the table stays small."""
    db.execute("DELETE FROM join_token WHERE expires_ms <= ?", (created_ms,))
    db.execute(
        "INSERT INTO join_token (hash, account, created_ms, expires_ms) VALUES (?, ?, ?, ?)",
        (token_hash, account, created_ms, expires_ms),
    )


def account_of_join_token(db: sqlite3.Connection, token_hash: bytes, now_ms: int) -> str | None:
    """See `AccessStore.account_of_join_token`."""
    row = db.execute(
        "SELECT account FROM join_token WHERE hash = ? AND expires_ms > ?", (token_hash, now_ms)
    ).fetchone()
    return None if row is None else str(row[0])


# audit


def add_line(db: sqlite3.Connection, line: AuditLine | None) -> None:
    """Write the line of a change that was made."""
    if line is not None:
        db.execute(
            f"INSERT INTO audit ({rows.AUDIT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - constants
            rows.audit_columns(line),
        )


def audit(db: sqlite3.Connection, account: str | None, limit: int, before: str | None) -> list[AuditLine]:
    """See `AccessStore.audit`."""
    whose = "" if account is None else "AND account = :account"
    found = db.execute(
        f"SELECT {rows.AUDIT} FROM audit WHERE id < coalesce(:before, '~') {whose} ORDER BY id DESC LIMIT :limit",  # noqa: S608
        {"account": account, "before": before, "limit": limit},
    )
    return [AuditLine(*row) for row in found]


def remove_audit(db: sqlite3.Connection, before_ms: int, limit: int) -> int:
    """See `AccessStore.remove_audit`."""
    removed = db.execute(
        "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at_ms < ? ORDER BY at_ms LIMIT ?)",
        (before_ms, limit),
    )
    return removed.rowcount
