"""What a store does, and the rows that it gives.

A method returns when what it wrote is committed: whoever awaits it may answer a caller. Writes about
an attempt carry its `Lease` and change nothing when that is not the task's present one. A store
knows no clock: times are given to it, in whole milliseconds since the epoch, and are for people;
leases expire by the dispatcher's monotonic clock, never by what is written here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from msgspec import Struct

from agent.protocol import Headers, Lease, Log, Phase, Revision, Spans
from dispatcher.store.access import AccessStore, AuditLine

if TYPE_CHECKING:
    from dispatcher.store.calls import StoreCalls
    from dispatcher.store.peers import Peers

CHUNK = 256 * 1024
"""Bodies larger than this are kept and read in pieces of so many bytes."""


class StoreUnavailable(Exception):
    """The database does not answer, or cannot write. Nothing was changed, or nothing is known of it."""


def result_key(lease: Lease) -> str:
    """Name the body of a result that is uploaded beside the session, before its outcome is recorded."""
    return f"result:{lease.task}:{lease.token.hex()}"


def task_of_result(key: str) -> str | None:
    """Give the task that a key of `result_key` belongs to; None for other keys."""
    kind, _, rest = key.partition(":")
    return rest.partition(":")[0] if kind == "result" else None


class State(StrEnum):
    """Where a task stands. Between accepted and finished, `Task.phase` says more."""

    QUEUED = "queued"
    OFFERED = "offered"
    ACCEPTED = "accepted"
    FINISHED = "finished"
    CANCELLED = "cancelled"


class Function(Struct, frozen=True):
    """A function as its owner sees it, with its newest revision."""

    id: str
    account: str
    name: str
    description: str
    lang: str
    type: str
    created_ms: int
    revision: Revision


class Node(Struct, frozen=True):
    """A machine that joined. `capabilities_json` is what it last said of itself."""

    id: str
    account: str
    description: str
    disabled: bool
    joined_ms: int
    seen_ms: int | None
    version: str
    capabilities_json: bytes


class NewTask(Struct, frozen=True):
    """A task as it is created.

    Attributes:
        body: The input where it is at most `CHUNK` bytes, else None and `body_key` names a body
            that was written with `Store.write_body`.
        idempotency_key: The caller's key, or None.
        fingerprint: Hash of what was asked, so that a key used again for something else is seen.
    """

    id: str
    account: str
    revision: Revision
    issued_ms: int
    query: str
    headers: Headers
    body: bytes | None
    body_size: int
    body_key: str | None = None
    idempotency_key: str | None = None
    fingerprint: bytes = b""


class Task(Struct, frozen=True):
    """A task as it stands, without its bodies.

    Attributes:
        status: 0 until it is finished, then the HTTP status of the result.
        error: Code of contract section 2, or None.
        detail: The sentence that goes with `error`.
        ending: What happened, by evidence: see `Ended.ending`.
    """

    id: str
    account: str
    revision: Revision
    state: State
    phase: Phase | None
    attempt: int
    issued_ms: int
    assigned_ms: int | None
    finished_ms: int | None
    progress: int
    progress_message: str
    node: str | None
    status: int
    error: str | None
    detail: str
    ending: str | None
    spans: Spans | None
    cold: bool | None


class TaskLine(Struct, frozen=True):
    """A task as a list shows it."""

    id: str
    issued_ms: int
    progress: int
    status: int
    function: str
    state: State
    phase: Phase | None
    progress_message: str
    node: str | None
    assigned_ms: int | None
    finished_ms: int | None
    error: str | None


class TaskCounts(Struct, frozen=True):
    """How many tasks there are, by state. `failed` ones are finished, with a status of 400 or more."""

    queued: int
    offered: int
    accepted: int
    finished: int
    cancelled: int
    failed: int


class NodeCounts(Struct, frozen=True):
    """How many nodes there are, and how many of them were removed."""

    all: int
    disabled: int


class RecentEnd(Struct, frozen=True):
    """What a finished task says of its function: how it ended, and where its time went."""

    issued_ms: int
    assigned_ms: int | None
    finished_ms: int
    status: int
    error: str | None
    spans: Spans
    cold: bool | None


class Queued(NamedTuple):
    """Tasks of a revision that wait, and the account whose they are."""

    revision: Revision
    account: str
    tasks: int


class Claim(Struct, frozen=True):
    """A queued task that now belongs to a node: what an offer needs."""

    lease: Lease
    account: str
    issued_ms: int
    revision: Revision
    query: str
    headers: Headers
    body: bytes | None
    body_size: int


class Leased(Struct, frozen=True):
    """A task that some node holds, as found when the dispatcher starts."""

    lease: Lease
    account: str
    node: str
    revision: Revision
    state: State


class Ended(Struct, frozen=True):
    """The end of a task as the store records it.

    Attributes:
        body: The result where it is at most `CHUNK` bytes, else None and `body_key` names it.
        state: FINISHED or CANCELLED.
        ending: An `agent.protocol.Ending`, or what happened where no node told: ``node_lost``,
            ``no_capable_node``.
        phase, percent: The last that was heard of the attempt and `Store.progress` was not told;
            None where there is no such thing.
    """

    finished_ms: int
    status: int
    headers: Headers
    body: bytes | None
    body_size: int
    body_key: str | None = None
    state: State = State.FINISHED
    error: str | None = None
    detail: str = ""
    ending: str = "answered"
    spans: Spans = Spans()
    cold: bool | None = None
    log: Log = Log()
    phase: Phase | None = None
    percent: int | None = None


class Result(Struct, frozen=True):
    """What `/result` answers. `body` is None where the body must be read with `Store.read_body`."""

    status: int
    headers: Headers
    body: bytes | None
    body_size: int
    body_key: str | None


class Upload(Struct, frozen=True):
    """How far an upload is: the bytes that are kept, and whether it has become a body."""

    kept: int
    complete: bool


class Verdict(StrEnum):
    """What became of a write that carried a lease."""

    RECORDED = "recorded"
    REPEATED = "repeated"
    """The same lease had ended the task already: the first answer stands, and was this node's."""
    CANCELLED = "cancelled"
    """The task was cancelled while this node held it by this lease: that end stands, and the log is kept."""
    STALE = "stale"


class Lost(StrEnum):
    """What became of a task whose attempt was lost."""

    REQUEUED = "requeued"
    EXHAUSTED = "exhausted"
    """No attempts are left: it ended with the given `Ended`."""
    STALE = "stale"


class BodyMissing(Exception):
    """A body key names no body: it was not written, or went away with its task."""


class KeyReused(Exception):
    """The idempotency key was used for something else."""


class NodeTaken(Exception):
    """The node id belongs to another account."""


class NodeDisabled(Exception):
    """The node was removed; its owner must restore it first."""


class UploadOvertaken(Exception):
    """An upload holds other bytes than its caller believed."""


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
