"""Accounts, tokens, browsers, and who changed what."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from msgspec.structs import replace

from dispatcher.store.access import Account, AccountLimits, AuditLine, BrowserSession, Scope
from dispatcher.store.base import Store
from dispatcher.store.errors import LastToken, NameTaken
from tests.contract.store.cases import (
    ACCOUNT,
    CANCELLED,
    NODE,
    OTHER_NODE,
    audit_line,
    new_function,
    new_task,
    new_token,
    task_id,
)

ADMINISTRATORS = Account("administrators", "administrators", administers=True, created_ms=5)


async def test_accounts_have_names_of_their_own(store: Store) -> None:
    """An account is found as it was made, and no other one gets its name."""
    assert not await store.has_accounts()
    await store.add_account(ADMINISTRATORS)
    assert await store.has_accounts()
    await store.add_account(Account("other", "Other"))
    with pytest.raises(NameTaken):
        await store.add_account(Account("third", "Other"))
    assert await store.account(ADMINISTRATORS.id) == ADMINISTRATORS
    assert await store.account("third") is None
    assert await store.account("\0") is None
    assert [account.id for account in await store.accounts(10, None)] == ["administrators", "other"]
    assert [account.id for account in await store.accounts(1, "administrators")] == ["other"]


async def test_tokens_are_found_by_secret_and_by_owner(store: Store) -> None:
    """A token comes back whole, by its secret; by its id for its own account, and for nobody else's."""
    token = new_token(1, scopes=frozenset({Scope.TASKS, Scope.NODES}), expires_ms=7)
    await store.add_token(token, b"one")
    await store.add_token(new_token(2, account="other"), b"two")
    assert await store.token_of(b"one") == token
    assert await store.token_of(b"three") is None
    assert await store.token(ACCOUNT, token.id) == token
    assert await store.token(None, token.id) == token
    assert await store.token("other", token.id) is None


async def test_tokens_are_listed_newest_first(store: Store) -> None:
    """Pages follow each other without gap or overlap, of one account or of all."""
    for number in range(1, 6):
        await store.add_token(new_token(number), b"%d" % number)
    await store.add_token(new_token(6, account="other"), b"6")

    async def numbers(account: str | None, limit: int, before: str | None) -> list[int]:
        return [int(token.id, 16) for token in await store.tokens(account, limit, before)]

    assert await numbers(ACCOUNT, 10, None) == [5, 4, 3, 2, 1]
    assert await numbers(ACCOUNT, 2, task_id(4)) == [3, 2]
    assert await numbers(None, 2, None) == [6, 5]


async def test_a_revoked_token_is_gone_with_its_browsers(store: Store) -> None:
    """Neither its secret nor the cookie of a browser that it logged in is good; those of others are."""
    for number in (1, 2):
        await store.add_token(new_token(number), b"%d" % number)
        assert await store.add_browser_session(BrowserSession(task_id(number), 1, 9), b"browser %d" % number)
    assert await store.revoke_token(task_id(1))
    assert not await store.revoke_token(task_id(1))
    assert await store.token_of(b"1") is None
    assert await store.browser_session(b"browser 1") is None
    assert not await store.add_browser_session(BrowserSession(task_id(1), 1, 9), b"late")
    assert await store.browser_session(b"late") is None
    assert await store.browser_session(b"browser 2") == (BrowserSession(task_id(2), 1, 9), new_token(2))


async def test_browser_sessions_end_and_are_cleared_away(store: Store) -> None:
    """One is found until it is removed, or until another begins after its end."""
    await store.add_token(new_token(1), b"1")
    await store.add_browser_session(BrowserSession(task_id(1), 1, 9), b"a")
    await store.add_browser_session(BrowserSession(task_id(1), 1, 20), b"b")
    assert await store.browser_session(b"a") is not None
    await store.add_browser_session(BrowserSession(task_id(1), 9, 20), b"c")
    assert await store.browser_session(b"a") is None
    assert await store.remove_browser_session(b"b")
    assert not await store.remove_browser_session(b"b")
    assert await store.browser_session(b"c") is not None


async def test_somebody_can_always_administer(store: Store) -> None:
    """The last token that administers and does not expire stays, whatever other tokens there are."""
    await store.add_account(ADMINISTRATORS)
    await store.add_account(Account(ACCOUNT, ACCOUNT))
    tokens = [
        new_token(1, ADMINISTRATORS.id),
        new_token(2, ADMINISTRATORS.id, scopes=frozenset({Scope.TASKS})),
        new_token(3, ADMINISTRATORS.id, expires_ms=10**15),
        new_token(4),
    ]
    for token in tokens:
        await store.add_token(token, token.id.encode())
    with pytest.raises(LastToken):
        await store.revoke_token(task_id(1), audit_line(1))
    assert await store.audit(None, 10, None) == []
    await store.add_token(new_token(5, ADMINISTRATORS.id), b"5")
    assert await store.revoke_token(task_id(1))
    with pytest.raises(LastToken):
        await store.revoke_token(task_id(5))
    for number in (2, 3, 4):
        assert await store.revoke_token(task_id(number))


async def test_join_tokens_expire(store: Store) -> None:
    """A join token is good until its time, for as many nodes as ask, and is no account token."""
    await store.add_join_token(b"one", ACCOUNT, 1_000, 2_000)
    assert await store.account_of_join_token(b"one", 1_999) == ACCOUNT
    assert await store.account_of_join_token(b"one", 1_999) == ACCOUNT
    assert await store.account_of_join_token(b"one", 2_000) is None
    assert await store.token_of(b"one") is None
    await store.add_join_token(b"two", ACCOUNT, 1_500, 2_500)
    assert await store.account_of_join_token(b"one", 1_999) == ACCOUNT
    await store.add_join_token(b"three", ACCOUNT, 2_200, 2_500)
    assert await store.account_of_join_token(b"two", 2_200) == ACCOUNT


Change = Callable[[Store, AuditLine], Awaitable[object]]

FUNCTION = new_function()
CHANGED = replace(FUNCTION, description="other")
SESSION = BrowserSession(task_id(1), 1, 9)

CHANGES: dict[str, tuple[Change, ...]] = {
    "account": (lambda store, line: store.add_account(Account("a", "a"), line),),
    "token": (
        lambda store, line: store.add_token(new_token(), b"1", line),
        lambda store, line: store.revoke_token(task_id(1), line),
    ),
    "browser": (
        lambda store, line: store.add_token(new_token(), b"1", line),
        lambda store, line: store.add_browser_session(SESSION, b"b", line),
        lambda store, line: store.remove_browser_session(b"b", line),
    ),
    "join token": (lambda store, line: store.add_join_token(b"j", ACCOUNT, 1, 2, line),),
    "function": (
        lambda store, line: store.add_function(FUNCTION, line),
        lambda store, line: store.change_function(CHANGED, 1, line),
        lambda store, line: store.remove_function(ACCOUNT, FUNCTION.id, line),
    ),
    "node": (
        lambda store, line: store.join_node(NODE, ACCOUNT, "", b"c", 1, audit=line),
        lambda store, line: store.set_node_disabled(ACCOUNT, NODE, True, line),
    ),
    "task": (
        lambda store, _: store.create_task(new_task()),
        lambda store, line: store.cancel(ACCOUNT, task_id(1), CANCELLED, line),
    ),
}
"""By kind of thing: changes that follow each other."""

NO_CHANGES: dict[str, Change] = {
    "token": lambda store, line: store.revoke_token(task_id(9), line),
    "session of no token": lambda store, line: store.add_browser_session(SESSION, b"b", line),
    "session": lambda store, line: store.remove_browser_session(b"b", line),
    "function changed": lambda store, line: store.change_function(CHANGED, 1, line),
    "function removed": lambda store, line: store.remove_function(ACCOUNT, FUNCTION.id, line),
    "node": lambda store, line: store.set_node_disabled(ACCOUNT, OTHER_NODE, True, line),
    "task": lambda store, line: store.cancel(ACCOUNT, task_id(9), CANCELLED, line),
}


@pytest.mark.parametrize("kind", CHANGES)
async def test_a_change_leaves_a_line(store: Store, kind: str) -> None:
    """Each change writes its line, whole."""
    lines = []
    for number, change in enumerate(CHANGES[kind], 1):
        lines.append(audit_line(number))
        await change(store, lines[-1])
    if kind == "task":
        del lines[0]  # tasks are a record of themselves
    assert await store.audit(None, 10, None) == lines[::-1]


@pytest.mark.parametrize("kind", NO_CHANGES)
async def test_what_changes_nothing_leaves_no_line(store: Store, kind: str) -> None:
    """Where there was nothing to change, nothing is said to have been changed."""
    await NO_CHANGES[kind](store, audit_line())
    assert await store.audit(None, 10, None) == []


async def test_what_fails_leaves_no_line(store: Store) -> None:
    """Nor where the change is refused, such as a second end of a task or a name that is taken."""
    await store.create_task(new_task())
    await store.cancel(ACCOUNT, task_id(1), CANCELLED)
    await store.cancel(ACCOUNT, task_id(1), CANCELLED, audit_line(1))
    await store.add_function(FUNCTION)
    with pytest.raises(NameTaken):
        await store.add_function(new_function(2, name=FUNCTION.name), audit_line(2))
    assert await store.audit(None, 10, None) == []


async def test_lines_are_listed_newest_first_and_removed_by_age(store: Store) -> None:
    """Pages follow each other; an account sees what was done to its own things; what is old goes, in small steps."""
    for number in range(1, 7):
        owner = ACCOUNT if number % 2 else "other"
        await store.add_token(new_token(number, owner), b"%d" % number, audit_line(number, owner))

    async def numbers(account: str | None, limit: int, before: str | None) -> list[int]:
        return [line.at_ms for line in await store.audit(account, limit, before)]

    assert await numbers(None, 10, None) == [6, 5, 4, 3, 2, 1]
    assert await numbers(ACCOUNT, 2, None) == [5, 3]
    assert await numbers(ACCOUNT, 2, task_id(3)) == [1]
    assert await store.remove_audit(5, 3) == 3
    assert await store.remove_audit(5, 3) == 1
    assert await store.remove_audit(5, 3) == 0
    assert await numbers(None, 10, None) == [6, 5]


async def test_an_account_has_limits_of_its_own(store: Store) -> None:
    """They come back as they were set, are listed where there are any, and can be taken away again."""
    limits = AccountLimits(queue_length=5, running=2, cpu_count=1.5, privileged=False)
    await store.add_account(ADMINISTRATORS)
    await store.add_account(Account("other", "other", limits=AccountLimits(timeout=60)))
    assert await store.account_limits() == {"other": AccountLimits(timeout=60)}
    assert await store.set_account_limits(ADMINISTRATORS.id, limits, audit_line())
    assert not await store.set_account_limits("nobody", limits, audit_line(2))
    assert await store.account(ADMINISTRATORS.id) == replace(ADMINISTRATORS, limits=limits)
    assert await store.account_limits() == {ADMINISTRATORS.id: limits, "other": AccountLimits(timeout=60)}
    assert await store.audit(None, 10, None) == [audit_line()]
    assert await store.set_account_limits("other", AccountLimits())
    assert list(await store.account_limits()) == [ADMINISTRATORS.id]
