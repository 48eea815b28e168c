"""What a store is given and gives: functions, nodes, tasks, and how tasks end."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from msgspec import Struct

from agent.protocol import Headers, Lease, Log, Phase, Revision, Spans


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
