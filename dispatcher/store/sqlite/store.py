"""`SqliteStore`: each method hands a function to a thread and gives what it returns.

The functions, and with them all SQL, are in `access`, `catalog`, `tasks`, `overview` and `bodies`; the threads in
`threads`.
"""

# ruff: noqa: D102 - what the methods do stands in `Store`

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Concatenate, Literal, ParamSpec, TypeVar

from agent.protocol import Lease, Log, Phase, Revision
from dispatcher.store.access import Account, AccountLimits, AuditLine, BrowserSession, Token
from dispatcher.store.calls import StoreCalls
from dispatcher.store.errors import BodyMissing, KeyReused, StoreUnavailable, UploadOvertaken
from dispatcher.store.pieces import pieces
from dispatcher.store.records import (
    Claim,
    Ended,
    Function,
    Leased,
    Lost,
    NewTask,
    Node,
    NodeCounts,
    Queued,
    RecentEnd,
    Result,
    Task,
    TaskCounts,
    TaskLine,
    Upload,
    Verdict,
)
from dispatcher.store.sqlite import access, bodies, catalog, overview, tasks
from dispatcher.store.sqlite.file import check_readable, check_writable, open_file
from dispatcher.store.sqlite.threads import Readers, Writer

P = ParamSpec("P")
T = TypeVar("T")


class SqliteStore:
    """A `Store` in one file that no other dispatcher has open. Methods without a word of their own: see `Store`.

    Args:
        path: The database; made, readable by its owner alone, where there is none. Its directory exists.
        synchronous: ``full``: what is committed survives a power cut. ``normal``: the last commits before
            a power cut may be gone. A crash of the program loses nothing either way.
    """

    def __init__(self, path: Path, *, synchronous: Literal["full", "normal"] = "full") -> None:
        self._path = path
        self._synchronous: Literal["full", "normal"] = synchronous
        self._lock: int | None = None
        self._writer: Writer | None = None
        self._readers: Readers | None = None
        self.calls = StoreCalls()

    @property
    def peers(self) -> None:
        """Nobody shares the file."""
        return None

    async def open(self) -> None:
        opened = await asyncio.to_thread(open_file, self._path, self._synchronous)
        self._lock = opened.lock
        self._writer = Writer("sqlite-writer", [opened.writer])
        self._readers = Readers("sqlite-reader", opened.readers)
        try:
            await self._write(bodies.remove_leftovers)
        except StoreUnavailable:
            await self.close()
            raise

    async def close(self) -> None:
        readers, writer, lock = self._readers, self._writer, self._lock
        self._readers = self._writer = self._lock = None
        if readers is not None:
            await readers.close()
        # Last, for the connection that closes last folds the log into the database, and readers cannot write.
        if writer is not None:
            await writer.close()
        if lock is not None:
            os.close(lock)

    async def ping(self) -> None:
        await self._read(check_readable)
        await self._write(check_writable)

    # access

    async def has_accounts(self) -> bool:
        return await self._read(access.has_accounts)

    async def add_account(self, account: Account, audit: AuditLine | None = None) -> None:
        await self._change(audit, access.add_account, account)

    async def account(self, account_id: str) -> Account | None:
        return await self._read(access.account, account_id)

    async def accounts(self, limit: int, after: str | None) -> list[Account]:
        return await self._read(access.accounts, limit, after)

    async def account_limits(self) -> dict[str, AccountLimits]:
        return await self._read(access.account_limits)

    async def set_account_limits(self, account_id: str, limits: AccountLimits, audit: AuditLine | None = None) -> bool:
        return await self._change(audit, access.set_account_limits, account_id, limits)

    async def add_token(self, token: Token, secret_hash: bytes, audit: AuditLine | None = None) -> None:
        await self._change(audit, access.add_token, token, secret_hash)

    async def token_of(self, secret_hash: bytes) -> Token | None:
        return await self._read(access.token_of, secret_hash)

    async def token(self, account: str | None, token_id: str) -> Token | None:
        return await self._read(access.token, account, token_id)

    async def tokens(self, account: str | None, limit: int, before: str | None) -> list[Token]:
        return await self._read(access.tokens, account, limit, before)

    async def revoke_token(self, token_id: str, audit: AuditLine | None = None) -> bool:
        return await self._change(audit, access.revoke_token, token_id)

    async def add_browser_session(
        self, session: BrowserSession, secret_hash: bytes, audit: AuditLine | None = None
    ) -> bool:
        return await self._change(audit, access.add_browser_session, session, secret_hash)

    async def browser_session(self, secret_hash: bytes) -> tuple[BrowserSession, Token] | None:
        return await self._read(access.browser_session, secret_hash)

    async def remove_browser_session(self, secret_hash: bytes, audit: AuditLine | None = None) -> bool:
        return await self._change(audit, access.remove_browser_session, secret_hash)

    async def add_join_token(
        self, token_hash: bytes, account: str, created_ms: int, expires_ms: int, audit: AuditLine | None = None
    ) -> None:
        await self._change(audit, access.add_join_token, token_hash, account, created_ms, expires_ms)

    async def account_of_join_token(self, token_hash: bytes, now_ms: int) -> str | None:
        return await self._read(access.account_of_join_token, token_hash, now_ms)

    async def audit(self, account: str | None, limit: int, before: str | None) -> list[AuditLine]:
        return await self._read(access.audit, account, limit, before)

    async def remove_audit(self, before_ms: int, limit: int) -> int:
        return await self._write(access.remove_audit, before_ms, limit)

    # functions

    async def add_function(self, function: Function, audit: AuditLine | None = None) -> None:
        await self._change(audit, catalog.add_function, function)

    async def function(self, account: str, function_id: str) -> Function | None:
        return await self._read(catalog.function, account, function_id)

    async def function_named(self, account: str, name: str) -> Function | None:
        return await self._read(catalog.function_named, account, name)

    async def functions(self, account: str, limit: int, before: str | None) -> list[Function]:
        return await self._read(catalog.functions, account, limit, before)

    async def warm_revisions(self, limit: int) -> list[Revision]:
        return await self._read(catalog.warm_revisions, limit)

    async def change_function(self, function: Function, expected: int, audit: AuditLine | None = None) -> bool:
        return await self._change(audit, catalog.change_function, function, expected)

    async def remove_function(self, account: str, function_id: str, audit: AuditLine | None = None) -> bool:
        return await self._change(audit, catalog.remove_function, account, function_id)

    # nodes

    async def join_node(
        self,
        node_id: str,
        account: str,
        description: str,
        credential_hash: bytes,
        now_ms: int,
        *,
        audit: AuditLine | None = None,
    ) -> None:
        await self._change(audit, catalog.join_node, node_id, account, description, credential_hash, now_ms=now_ms)

    async def node_of_credential(self, node_id: str, credential_hash: bytes) -> Node | None:
        return await self._read(catalog.node_of_credential, node_id, credential_hash)

    async def node(self, account: str, node_id: str) -> Node | None:
        return await self._read(catalog.node, account, node_id)

    async def nodes(self, account: str, limit: int, after: str | None) -> list[Node]:
        return await self._read(catalog.nodes, account, limit, after)

    async def node_counts(self, account: str, most: int) -> NodeCounts:
        return await self._read(overview.node_counts, account, most)

    async def set_node_disabled(
        self, account: str, node_id: str, disabled: bool, audit: AuditLine | None = None
    ) -> bool:
        return await self._change(audit, catalog.set_node_disabled, account, node_id, disabled)

    async def node_seen(self, node_id: str, seen_ms: int, version: str, capabilities_json: bytes) -> bool:
        return await self._write(catalog.node_seen, node_id, seen_ms, version, capabilities_json)

    # tasks

    async def create_task(self, new: NewTask) -> str:
        task_id = await self._write(tasks.create, new)
        if task_id is None:
            raise KeyReused(new.idempotency_key)
        return task_id

    async def create_given(
        self,
        new: NewTask,
        lease: Lease,
        node_id: str,
        assigned_ms: int,
        *,
        accepted: bool = False,
        ended: Ended | None = None,
    ) -> None:
        await self._write(tasks.create_given, new, lease, node_id, assigned_ms, accepted=accepted, ended=ended)

    async def task(self, account: str, task_id: str) -> Task | None:
        return await self._read(tasks.task, account, task_id)

    async def tasks(
        self, account: str, limit: int, before: str | None, function_id: str | None, state: str | None
    ) -> list[TaskLine]:
        return await self._read(tasks.tasks, account, limit, before, function_id=function_id, state=state)

    async def task_lines(self, account: str, ids: Sequence[str]) -> list[TaskLine]:
        return await self._read(overview.task_lines, account, ids)

    async def tasks_on_node(self, account: str, node_id: str, limit: int) -> list[TaskLine]:
        return await self._read(overview.tasks_on_node, account, node_id, limit)

    async def task_counts(self, account: str, most: int, function_id: str | None = None, above: str = "") -> TaskCounts:
        return await self._read(overview.task_counts, account, most, function_id, above)

    async def recent_ends(self, account: str, function_id: str, limit: int) -> list[RecentEnd]:
        return await self._read(overview.recent_ends, account, function_id, limit)

    async def result(self, account: str, task_id: str) -> Result | None:
        return await self._read(tasks.result, account, task_id)

    async def log(self, account: str, task_id: str) -> Log | None:
        return await self._read(tasks.log, account, task_id)

    async def queued(self) -> list[Queued]:
        return await self._read(tasks.queued)

    async def oldest_queued(self, revision_keys: Sequence[str]) -> int | None:
        return await self._read(tasks.oldest_queued, revision_keys)

    async def leased(self) -> list[Leased]:
        return await self._read(tasks.leased)

    async def claim(self, revision_key: str, node_id: str, tokens: Sequence[bytes], now_ms: int) -> list[Claim]:
        return await self._write(tasks.claim, revision_key, node_id, tokens, now_ms)

    async def accept(self, lease: Lease, node_id: str) -> bool:
        return await self._write(tasks.accept, lease, node_id)

    async def release(self, lease: Lease) -> bool:
        return await self._write(tasks.release, lease)

    async def lose(self, lease: Lease, otherwise: Ended) -> Lost:
        return await self._write(tasks.lose, lease, otherwise)

    async def progress(self, lease: Lease, phase: Phase, percent: int | None, message: str) -> bool:
        return await self._write(tasks.progress, lease, phase, percent, message)

    async def finish(self, lease: Lease, node_id: str, ended: Ended) -> Verdict:
        return await self._write(tasks.finish, lease, node_id, ended)

    async def cancel(
        self, account: str, task_id: str, ended: Ended, audit: AuditLine | None = None
    ) -> tuple[Task, bool] | None:
        return await self._write(tasks.cancel, account, task_id, ended, audit)

    async def expire_queued(self, revision_key: str, issued_before_ms: int, ended: Ended, limit: int) -> list[str]:
        return await self._write(tasks.expire_queued, revision_key, issued_before_ms, ended, limit)

    async def input_of(self, lease: Lease, node_id: str) -> tuple[str | None, bytes | None, int] | None:
        return await self._read(tasks.input_of, lease, node_id)

    async def was_cancelled(self, lease: Lease, node_id: str) -> bool:
        return await self._read(tasks.was_cancelled, lease, node_id)

    async def holds(self, lease: Lease, node_id: str) -> bool:
        return await self._read(tasks.holds, lease, node_id)

    async def remove_finished(self, before_ms: int, limit: int) -> int:
        return await self._write(tasks.remove_finished, before_ms, limit)

    # bodies

    async def write_body(self, key: str, chunks: AsyncIterator[bytes], limit: int) -> int | None:
        serial = await self._write(bodies.begin, key)
        complete = False
        try:
            size = 0
            async for piece in pieces(chunks):
                if size + len(piece) > limit:
                    return None
                await self._write(bodies.extend, serial, size, piece)
                size += len(piece)
            await self._write(bodies.complete, serial)
            complete = True
            return size
        finally:
            if not complete:
                # Where this fails too, the next start removes what is left.
                with suppress(StoreUnavailable):
                    await self._write(bodies.remove, serial)

    async def read_body(self, key: str, start: int = 0) -> AsyncIterator[bytes]:
        serial, size = await self._read(bodies.find, key)
        async for piece in self._read_pieces(key, serial, start, size):
            yield piece

    async def upload(self, key: str) -> Upload:
        return await self._read(bodies.upload, key)

    async def extend_upload(self, key: str, start: int, chunks: AsyncIterator[bytes]) -> int:
        serial = await self._write(bodies.begun, key)
        async for piece in pieces(chunks):
            if not await self._write(bodies.extend, serial, start, piece):
                raise UploadOvertaken(key)
            start += len(piece)
        return start

    async def read_upload(self, key: str) -> AsyncIterator[bytes]:
        serial, kept = await self._read(bodies.find_begun, key)
        async for piece in self._read_pieces(key, serial, 0, kept):
            yield piece

    async def complete_upload(self, key: str) -> None:
        serial, _ = await self._read(bodies.find_begun, key)
        await self._write(bodies.complete, serial)

    async def drop_upload(self, key: str) -> None:
        await self._write(bodies.drop_upload, key)

    async def _read_pieces(self, key: str, serial: int, start: int, end: int) -> AsyncIterator[bytes]:
        while start < end:
            piece = await self._read(bodies.read, serial, start)
            if not piece:
                raise BodyMissing(key)
            yield piece
            start += len(piece)

    # threads

    async def _write(
        self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        if self._writer is None:
            raise StoreUnavailable("the store is not open")
        with self.calls.write.timed():
            return await self._writer.run(work, *args, **kwargs)

    async def _change(
        self,
        audit: AuditLine | None,
        work: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Write, and say in the same commit who did."""
        return await self._write(access.audited, audit, work, *args, **kwargs)

    async def _read(
        self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        if self._readers is None:
            raise StoreUnavailable("the store is not open")
        with self.calls.read.timed():
            return await self._readers.run(work, *args, **kwargs)
