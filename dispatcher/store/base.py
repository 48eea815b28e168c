"""What a store does.

A method returns when what it wrote is committed: whoever awaits it may answer a caller. Writes about
an attempt carry its `Lease` and change nothing when that is not the task's present one. A store
knows no clock: times are given to it, in whole milliseconds since the epoch, and are for people;
leases expire by the dispatcher's monotonic clock, never by what is written here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Protocol

from agent.protocol import Lease, Log, Phase, Revision
from dispatcher.store.access import AccessStore, AuditLine
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

if TYPE_CHECKING:
    from dispatcher.store.calls import StoreCalls
    from dispatcher.store.peers import Peers


class Store(AccessStore, Protocol):
    """The dispatcher's memory. Every method may raise `StoreUnavailable`.

    What accounts, tokens and browsers are about is in `AccessStore`, and with it what an ``audit`` argument means:
    it is committed together with the change, and only if there was one.
    """

    calls: StoreCalls
    """How long its calls took, and how many failed."""

    @property
    def peers(self) -> Peers | None:
        """What this dispatcher shares with others on the same store; None where it can only be alone."""

    async def open(self) -> None:
        """Connect and migrate."""

    async def close(self) -> None:
        """Commit what is under way and let go."""

    async def ping(self) -> None:
        """Return if the database can be read and written and its migrations are done."""

    # functions

    async def add_function(self, function: Function, audit: AuditLine | None = None) -> None:
        """Make a function with its first revision.

        Raises:
            NameTaken: Another function of the account has its name.
        """

    async def function(self, account: str, function_id: str) -> Function | None:
        """Find a function of an account."""

    async def function_named(self, account: str, name: str) -> Function | None:
        """Find a function of an account by its name."""

    async def functions(self, account: str, limit: int, before: str | None) -> list[Function]:
        """List functions, newest first, starting below the id ``before``."""

    async def warm_revisions(self, limit: int) -> list[Revision]:
        """List the revisions of functions that want containers kept ready, of every account, newest first."""

    async def change_function(self, function: Function, expected: int, audit: AuditLine | None = None) -> bool:
        """Store a function whose newest revision has number ``expected``; False where it has another by now.

        Raises:
            NameTaken: Another function of the account has its name.
        """

    async def remove_function(self, account: str, function_id: str, audit: AuditLine | None = None) -> bool:
        """Remove a function. Its tasks keep their revision and go on."""

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
        """Make a node, or give the account's own node a new credential; the old one ends.

        Raises:
            NodeTaken: The node belongs to another account.
            NodeDisabled: The node was removed and not restored.
        """

    async def node_of_credential(self, node_id: str, credential_hash: bytes) -> Node | None:
        """Find a node by its id and credential, disabled or not."""

    async def node(self, account: str, node_id: str) -> Node | None:
        """Find a node of an account."""

    async def nodes(self, account: str, limit: int, after: str | None) -> list[Node]:
        """List nodes by id, starting above ``after``."""

    async def node_counts(self, account: str, most: int) -> NodeCounts:
        """Count nodes, up to ``most``."""

    async def set_node_disabled(
        self, account: str, node_id: str, disabled: bool, audit: AuditLine | None = None
    ) -> bool:
        """Remove or restore a node; False where there is none."""

    async def node_seen(self, node_id: str, seen_ms: int, version: str, capabilities_json: bytes) -> bool:
        """Keep what a node last said of itself; False where there is no such node, or it was removed."""

    # tasks

    async def create_task(self, new: NewTask) -> str:
        """Queue a task and give its id: another's where the idempotency key was used for the same before.

        Raises:
            KeyReused: The idempotency key was used for something else.
            BodyMissing: The input that `NewTask.body_key` names was not written.
        """

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
        """Create a task that was given to a node before it was written; and end it, where it has ended by then.

        What is in the store afterwards is what `create_task`, a claim with this lease, `accept` where the node
        has accepted, and `finish` would have left one after the other. Nobody else knows of the task before: it
        has no idempotency key, and neither its input nor its result is a body by a key.
        """

    async def task(self, account: str, task_id: str) -> Task | None:
        """Find a task of an account."""

    async def tasks(
        self, account: str, limit: int, before: str | None, function_id: str | None, state: str | None
    ) -> list[TaskLine]:
        """List tasks, newest first, starting below the id ``before``.

        Args:
            state: A `State`, or a phase, which means accepted and in that phase; ``active``, which means not
                ended; or ``failed``, which means finished with a status of 400 or more.
        """

    async def task_lines(self, account: str, ids: Sequence[str]) -> list[TaskLine]:
        """Give those of these tasks that are the account's, newest first. There are at most 500 ids."""

    async def tasks_on_node(self, account: str, node_id: str, limit: int) -> list[TaskLine]:
        """List the account's tasks that a node holds, newest first."""

    async def task_counts(self, account: str, most: int, function_id: str | None = None, above: str = "") -> TaskCounts:
        """Count tasks, each state up to ``most``, which then means that there are at least so many.

        Args:
            function_id: Count only those of this function, which is the account's.
            above: Count only those with a greater id, which are newer.
        """

    async def recent_ends(self, account: str, function_id: str, limit: int) -> list[RecentEnd]:
        """Give the newest finished tasks of a function."""

    async def result(self, account: str, task_id: str) -> Result | None:
        """Give the result of a finished or cancelled task."""

    async def log(self, account: str, task_id: str) -> Log | None:
        """Give the captured log of a finished or cancelled task."""

    async def queued(self) -> list[Queued]:
        """Count what waits, by revision: what a dispatcher must know when it starts."""

    async def oldest_queued(self, revision_keys: Sequence[str]) -> int | None:
        """Say when the task was issued that waits longest of those of some revisions; None where none of them waits."""

    async def leased(self) -> list[Leased]:
        """List what nodes hold."""

    async def claim(self, revision_key: str, node_id: str, tokens: Sequence[bytes], now_ms: int) -> list[Claim]:
        """Give the oldest queued tasks of a revision to a node, one for each token. No other claim gets them."""

    async def accept(self, lease: Lease, node_id: str) -> bool:
        """Record that the node has the task on disk; False for a stale lease."""

    async def release(self, lease: Lease) -> bool:
        """Put back a task that was not begun: the same attempt, another token next time; False for a stale lease."""

    async def lose(self, lease: Lease, otherwise: Ended) -> Lost:
        """Put back a task whose attempt was lost, with attempt + 1, or end it where `Revision.retries` are used up.

        The lost lease stays good for `finish` until another node has claimed the task.
        """

    async def progress(self, lease: Lease, phase: Phase, percent: int | None, message: str) -> bool:
        """Keep how far an attempt is; the percentage never falls; False for a stale lease."""

    async def finish(self, lease: Lease, node_id: str, ended: Ended) -> Verdict:
        """Record the end of an attempt, if its lease is good and was given to this node: once.

        Of a task that was cancelled while the node held it only log, spans and `Ended.cold` are kept, once too; that
        log replaces the one that the cancel came with.

        Raises:
            BodyMissing: The result that `Ended.body_key` names was not written.
        """

    async def cancel(
        self, account: str, task_id: str, ended: Ended, audit: AuditLine | None = None
    ) -> tuple[Task, bool] | None:
        """End a task for its owner: the task as it stood before, and whether this call ended it. None: no such task.

        The audit line is written if this call ended it.
        """

    async def expire_queued(self, revision_key: str, issued_before_ms: int, ended: Ended, limit: int) -> list[str]:
        """End queued tasks of a revision that were created before a time; give their ids."""

    # bodies

    async def write_body(self, key: str, chunks: AsyncIterator[bytes], limit: int) -> int | None:
        """Keep a body in pieces and give its size; a body that had this name before is replaced, unless a task uses it.

        None, and nothing kept, if it has more bytes than the limit.
        """

    def read_body(self, key: str, start: int = 0) -> AsyncIterator[bytes]:
        """Read a body piece by piece, from the byte ``start`` on.

        Raises:
            BodyMissing: There is no such body, or it was removed meanwhile.
        """

    async def upload(self, key: str) -> Upload:
        """Say how much of an upload is kept; an upload that nobody began has no bytes."""

    async def extend_upload(self, key: str, start: int, chunks: AsyncIterator[bytes]) -> int:
        """Add bytes to an upload, which holds ``start`` bytes so far, and say how many it holds then.

        What came stays where the rest does not, so that an upload which breaks off again and again gets on.

        Raises:
            UploadOvertaken: It holds other than ``start`` bytes: another caller was quicker, or it was dropped.
        """

    def read_upload(self, key: str) -> AsyncIterator[bytes]:
        """Read what is kept of an upload.

        Raises:
            BodyMissing: There is no such upload, or it was dropped meanwhile.
        """

    async def complete_upload(self, key: str) -> None:
        """Make an upload a body, in place of one that had this name before, unless a task uses that one.

        Raises:
            BodyMissing: There is no such upload.
        """

    async def drop_upload(self, key: str) -> None:
        """Forget an upload; a body that a task uses stays."""

    async def input_of(self, lease: Lease, node_id: str) -> tuple[str | None, bytes | None, int] | None:
        """Give (body key, body, size) of the input of the task that this node's lease holds; None for a stale lease."""

    async def holds(self, lease: Lease, node_id: str) -> bool:
        """Say whether a lease of this node is good for `finish`."""

    async def was_cancelled(self, lease: Lease, node_id: str) -> bool:
        """Say whether the task was cancelled while this node held it by this lease: then its log is still wanted."""

    # retention

    async def remove_finished(self, before_ms: int, limit: int) -> int:
        """Remove tasks that ended before a time, with their bodies; give how many there were."""
