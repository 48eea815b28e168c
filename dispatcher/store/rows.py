"""Rows of the database as the values of `dispatcher.store.records`, the same for every SQL store."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from agent.protocol import Headers, Lease, Log, Revision, Spans
from dispatcher.store.access import NO_LIMITS, Account, AccountLimits, AuditLine, Scope, Token
from dispatcher.store.records import Claim, Function, Leased, Node, RecentEnd, Result, State, Task, TaskLine

Row = Sequence[Any]

ACCOUNT = "id, name, administers, created_ms, limits"
"""Columns of `account`."""

TOKEN = "t.id, t.account, t.name, t.scopes, t.created_ms, t.expires_ms"  # noqa: S105 - columns
"""Columns of `token`, from ``token t``."""

AUDIT = "id, at_ms, account, by_account, by_token, by_name, action, object, detail"
"""Columns of an audit line, in the order of its fields."""

FUNCTION = "f.id, f.account, f.name, f.description, f.lang, f.type, f.created_ms, r.definition"
"""Columns of `function`, from ``function f`` and its ``revision r``."""

NODE = "id, account, description, disabled, joined_ms, seen_ms, version, capabilities"
"""Columns of `node`."""

TASK = (
    "t.id, t.account, r.definition, t.state, t.phase, t.attempt, t.issued_ms, t.assigned_ms, t.finished_ms,"
    " t.progress, t.progress_message, t.node, t.status, t.error, t.detail, t.ending,"
    " t.spans, t.cold"
)
"""Columns of `task`, from ``task t`` and its ``revision r``."""

LINE = (
    "id, issued_ms, progress, status, function, state, phase, progress_message, node, assigned_ms, finished_ms, error"
)
"""Columns of `task_line`."""

RECENT_END = "issued_ms, assigned_ms, finished_ms, status, error, spans, cold"
"""Columns of `recent_end`."""

CLAIM = "t.id, t.attempt, t.account, t.issued_ms, r.definition, i.query, i.headers, i.body, i.body_size"
"""Columns of `claim`, from ``task t``, its ``revision r`` and its ``task_input i``."""

OWNED = (
    "r.definition, coalesce((SELECT account FROM function WHERE id = r.function),"
    " (SELECT account FROM task WHERE function = r.function LIMIT 1))"
)
"""A revision, and whose it is, from ``revision r``. Its function may have been removed; its tasks have not."""

LEASED = "t.id, t.attempt, t.token, t.account, t.node, r.definition, t.state"
"""Columns of `leased`, from ``task t`` and its ``revision r``."""

RESULT = "t.status, o.headers, o.body, o.body_size, o.body_key"
"""Columns of `result`, from ``task t`` and its ``task_result o``."""

LOG = "head, omitted, tail"
"""Columns of `log`."""

_encoder = msgspec.json.Encoder()
_headers = msgspec.json.Decoder(Headers)
_limits = msgspec.json.Decoder(AccountLimits)
_revision = msgspec.json.Decoder(Revision)
_spans = msgspec.json.Decoder(Spans)

encode = _encoder.encode
"""Make the JSON that a column keeps of headers, a revision or spans."""


@lru_cache(maxsize=1024)
def revision(definition: bytes) -> Revision:
    """Read a revision. Few are in use at a time, and each is read with every task of it."""
    return _revision.decode(definition)


def account(row: Row) -> Account:
    """Make an account of the columns `ACCOUNT`."""
    account_id, name, administers, created_ms, limits = row
    return Account(account_id, name, bool(administers), created_ms, account_limits(limits))


def account_limits(column: bytes | None) -> AccountLimits:
    """Read the column `limits`, which is null where an account has none of its own."""
    return NO_LIMITS if column is None else _limits.decode(column)


def account_limits_column(limits: AccountLimits) -> bytes | None:
    """Write limits as the column `limits` keeps them."""
    return None if limits == NO_LIMITS else encode(limits)


def token(row: Row) -> Token:
    """Make a token of the columns `TOKEN`."""
    token_id, owner, name, scopes, created_ms, expires_ms = row
    return Token(token_id, owner, name, frozenset(map(Scope, scopes.split())), created_ms, expires_ms)


def words(scopes: Collection[Scope]) -> str:
    """Write scopes as the column `scopes` keeps them."""
    return " ".join(scope for scope in Scope if scope in scopes)


def audit_columns(line: AuditLine) -> tuple[Any, ...]:
    """Give the values of the columns `AUDIT`."""
    return msgspec.structs.astuple(line)


def function(row: Row) -> Function:
    """Make a function of the columns `FUNCTION`."""
    function_id, account, name, description, lang, kind, created_ms, definition = row
    return Function(function_id, account, name, description, lang, kind, created_ms, revision(definition))


def node(row: Row) -> Node:
    """Make a node of the columns `NODE`."""
    node_id, account, description, disabled, joined_ms, seen_ms, version, capabilities = row
    return Node(node_id, account, description, bool(disabled), joined_ms, seen_ms, version, capabilities)


def task(row: Row) -> Task:
    """Make a task of the columns `TASK`.

    A lost attempt leaves its traces in the row, for its outcome may still come; a task that is back
    in the queue shows none of them.
    """
    (
        task_id, account, definition, state, phase, attempt, issued_ms, assigned_ms, finished_ms,
        progress, message, node_id, status, error, detail, ending, spans, cold,
    ) = row  # fmt: skip
    waits = state == State.QUEUED
    return Task(
        id=task_id,
        account=account,
        revision=revision(definition),
        state=State(state),
        phase=None if waits else phase,
        attempt=attempt,
        issued_ms=issued_ms,
        assigned_ms=None if waits else assigned_ms,
        finished_ms=finished_ms,
        progress=progress,
        progress_message=message,
        node=None if waits else node_id,
        status=status,
        error=error,
        detail=detail,
        ending=ending,
        spans=None if spans is None else _spans.decode(spans),
        cold=None if cold is None else bool(cold),
    )


def task_line(row: Row) -> TaskLine:
    """Make a line of a list of the columns `LINE`. As with `task`, one that waits shows no trace of an attempt."""
    (
        task_id, issued_ms, progress, status, function_id, state, phase, message,
        node_id, assigned_ms, finished_ms, error,
    ) = row  # fmt: skip
    if state == State.QUEUED:
        phase = node_id = assigned_ms = None
    return TaskLine(
        task_id, issued_ms, progress, status, function_id, State(state), phase, message, node_id, assigned_ms,
        finished_ms, error,
    )  # fmt: skip


def recent_end(row: Row) -> RecentEnd:
    """Make the end of a task of the columns `RECENT_END`."""
    issued_ms, assigned_ms, finished_ms, status, error, spans, cold = row
    cold = None if cold is None else bool(cold)
    return RecentEnd(issued_ms, assigned_ms, finished_ms, status, error, _spans.decode(spans), cold)


def claim(row: Row, token: bytes) -> Claim:
    """Make a claim of the columns `CLAIM` and the token that it was made with."""
    task_id, attempt, account, issued_ms, definition, query, headers, body, body_size = row
    lease = Lease(task_id, attempt, token)
    return Claim(lease, account, issued_ms, revision(definition), query, _headers.decode(headers), body, body_size)


def leased(row: Row) -> Leased:
    """Make a held task of the columns `LEASED`."""
    task_id, attempt, token, account, node_id, definition, state = row
    return Leased(Lease(task_id, attempt, token), account, node_id, revision(definition), State(state))


def result(row: Row) -> Result:
    """Make a result of the columns `RESULT`."""
    status, headers, body, body_size, body_key = row
    return Result(status, _headers.decode(headers), body, body_size, body_key)


def log(row: Row) -> Log:
    """Make a log of the columns `LOG`."""
    return Log(*row)
