"""Every message on the wire between a node and the dispatcher.

One WebSocket a node, opened by the node, subprotocol ``fernd.v1``. A frame is one MessagePack
array of messages, so that what became ready together travels together. Messages are maps with a
``type`` key: a peer that is newer may add fields, and an older one passes over them.

The rule that everything rests on: a write about a task carries its `Lease`, and a write whose
lease is not the task's present one is refused and changes nothing. A task may therefore run more
than once, and is recorded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

SUBPROTOCOL = "fernd.v1"

INLINE_LIMIT = 256 * 1024
"""Bodies up to this many bytes travel inside a message; larger ones by HTTP beside the session."""

FRAME_LIMIT = 4 * 1024 * 1024
"""No frame is larger; the receiver closes the session on one that is."""

HEARTBEAT_SECONDS = 10.0
SILENCE_SECONDS = 25.0
"""After so long without a frame from the peer, a side closes the session: two heartbeats missed."""

LEASE_SECONDS = 30.0
OFFER_SECONDS = 5.0
"""An offer that has no answer after so long goes back to the queue."""

LEASE_HEADER = "X-Fernd-Lease"
"""Names the lease of a body that travels by HTTP: ``<attempt>:<token in hex>``."""

OFFSET_HEADER = "X-Fernd-Offset"
"""Of an upload: bytes that the dispatcher has kept so far, where the body of the request goes on."""

SIZE_HEADER = "X-Fernd-Size"
SHA256_HEADER = "X-Fernd-Sha256"
"""Of an upload: bytes of the whole result, and its SHA-256 in hex."""

TaskId = Annotated[str, Meta(pattern=r"^[0-9a-f]{24}(?!\n)$")]
Percent = Annotated[int, Meta(ge=0, le=100)]

# One peer must not be able to say what the other cannot keep or show: a number that JSON, SQL or
# arithmetic would fail on, a text that fills memory and logs.
Amount = Annotated[float, Meta(ge=-(2**53), le=2**53)]
Count = Annotated[int, Meta(ge=-(2**53), le=2**53)]
Text = Annotated[str, Meta(max_length=16 * 1024)]
Line = Annotated[bytes, Meta(max_length=16 * 1024)]

Headers = list[tuple[str, str]]
Phase = Literal["pulling", "starting", "running", "uploading"]
Mode = Literal["http", "job"]
Network = Literal["none", "internet"]
Pull = Literal["missing", "newer", "always"]
"""When an image is fetched: where it is not present; or for each container that is started, and what is present does if
the registry does not give it (`newer`) or does not do (`always`). What a digest names never changes."""


class Lease(Struct, frozen=True):
    """The right to run one attempt of one task: what fences every write.

    Attributes:
        task: The task's id.
        attempt: 1 for the first; one more each time that an attempt was lost.
        token: 16 random bytes, new with each offer.
    """

    task: TaskId
    attempt: Annotated[int, Meta(ge=1, le=2**53)]
    token: Annotated[bytes, Meta(min_length=16, max_length=16)]

    def header(self) -> str:
        """Give the value of `LEASE_HEADER` for this lease."""
        return f"{self.attempt}:{self.token.hex()}"

    @classmethod
    def from_header(cls, task: str, value: str) -> Lease:
        """Read the value of `LEASE_HEADER`.

        Raises:
            ValueError: The value is not ``<attempt>:<32 hex digits>``.
        """
        attempt, _, token = value.partition(":")
        if not (attempt.isascii() and attempt.isdigit() and len(attempt) < 10 and len(token) == 32):
            raise ValueError(f"{LEASE_HEADER} is not <attempt>:<token in hex>")
        return cls(task, int(attempt), bytes.fromhex(token))


class Revision(Struct, frozen=True):
    """One unchanging version of a function: how to run it, and what it asks of a node.

    A task keeps the revision that it was created with. Requirements of 0 mean none.

    Attributes:
        function: The function's id.
        number: 1 for the first; a change of the function makes the next.
        image: Image reference, by tag or by digest.
        env: Environment of the container.
        concurrency: Requests that a warm container of an http function takes at a time.
        warm: Containers that a node with the image keeps ready; see `Prewarm`.
        pull: When the image is fetched; see `Pull`.
        ready_path: Path that answers 2xx when the function is ready; empty: the port accepts.
        retries: Further attempts after an attempt was lost. 0: never run twice.
        timeout: Seconds from the request to the end of the answer.
        grace: Seconds between the signal to a function that is to end and its kill; a node may allow less.
        cpu_count: CPUs asked for. A container gets `cpus` of them.
        mem_size: MiB asked for. A container gets `memory` of them.
        network_latency: The node's round trip may be at most so many ms.
        privileged: Asks for a privileged container.
    """

    function: TaskId
    number: int
    image: str
    mode: Mode = "http"
    env: dict[str, str] = {}
    network: Network = "none"
    reuse: bool = True
    concurrency: int = 1
    warm: int = 0
    ready_path: str = ""
    retries: int = 2
    timeout: int = 10
    grace: int = 5
    cpu_count: float = 0
    mem_size: int = 0
    network_latency: float = 0
    privileged: bool = False
    pull: Pull = "missing"

    @property
    def key(self) -> str:
        """Name the revision: ``<function>.<number>``, as in the label and in the store."""
        return f"{self.function}.{self.number}"

    @property
    def cpus(self) -> float:
        """CPUs that a container of this revision gets: 1 where nothing was asked for."""
        return self.cpu_count or 1.0

    @property
    def memory(self) -> int:
        """MiB that a container of this revision gets: 256 where nothing was asked for."""
        return self.mem_size or 256

    @property
    def sharing(self) -> int:
        """Tasks that share a container: 1 where each one has a container to itself."""
        return self.concurrency if self.mode == "http" and self.reuse else 1

    @property
    def may_begin_early(self) -> bool:
        """A node may begin a task of it before it has answered the offer; see `Offer.short`."""
        return self.mode == "http" and self.retries > 0

    def share_of(self, capabilities: Capabilities) -> tuple[float, int]:
        """Say how much of a node's CPU and memory (MiB) a task of this revision takes up.

        Where nothing was asked for, a node smaller than the default gives what it has.
        """
        return share(self.cpu_count, self.mem_size, capabilities, self.sharing)


class Capabilities(Struct, frozen=True):
    """What a node is. It changes seldom; what is free of it is its `Credit`.

    Attributes:
        cpu_count: CPUs that functions may use, bounded by the agent's own cgroup and affinity.
        mem_size: MiB that functions may use, bounded likewise.
        network_latency: Median round trip of the session in ms; None before the first one.
        privileged: The operator allows it and a probe container ran.
        internet: The operator allows functions to reach the internet.
        arch: The engine's architecture, such as ``x86_64``.
        runtimes: OCI runtimes that functions are run by.
    """

    cpu_count: Amount
    mem_size: Count
    network_latency: Amount | None = None
    privileged: bool = False
    internet: bool = False
    arch: Text = ""
    runtimes: Annotated[list[Annotated[str, Meta(max_length=100)]], Meta(max_length=1001)] = []


def share(cpu_count: float, mem_size: int, capabilities: Capabilities, sharing: int = 1) -> tuple[float, int]:
    """Say how much CPU and memory (MiB) a requirement takes up on a node; see `Revision.share_of`."""
    cpu, memory = cpu_count or min(1.0, capabilities.cpu_count), mem_size or min(256, capabilities.mem_size)
    return cpu / sharing, -(-memory // sharing)


class Credit(Struct, frozen=True):
    """How much more work a node can take. Without credit it is offered none.

    Attributes:
        cpu: CPUs free.
        memory: MiB free; idle warm containers count as free, since they give way.
        slots: Further tasks.
        offers_seen: Number of the last offer of this session that the node has received. The
            dispatcher subtracts the ones still under way, so that a credit that crosses an offer
            is not spent twice.
    """

    cpu: Amount = 0
    memory: Count = 0
    slots: Count = 0
    offers_seen: Count = 0


class Load(Struct, frozen=True):
    """How busy the machine is: CPU in percent of all cores, MiB of memory free, tasks running."""

    cpu_percent: Amount = 0
    memory_free: Count = 0
    running: Count = 0


class Held(Struct, frozen=True):
    """A lease that a node still holds when it says hello, and what it knows of it."""

    lease: Lease
    finished: bool
    """The outcome is spooled and will follow; otherwise the work still runs."""


class Spans(Struct, frozen=True):
    """Milliseconds that an attempt spent in each phase on the node."""

    pulling: Amount = 0
    starting: Amount = 0
    running: Amount = 0
    uploading: Amount = 0


class Log(Struct, frozen=True):
    """What a function wrote, bounded: the first part, how many bytes are left out, the last part."""

    head: bytes = b""
    omitted: Count = 0
    tail: bytes = b""


# From the node ------------------------------------------------------------------------------------


class NodeHello(Struct, frozen=True, tag="node_hello"):
    """The node's first message.

    Attributes:
        images: Image references present on the node.
        warm: Keys of the revisions with a warm container.
    """

    version: Text
    capabilities: Capabilities
    credit: Credit
    images: list[str] = []
    warm: list[str] = []
    held: list[Held] = []


class Accept(Struct, frozen=True, tag="accept"):
    """The offer is in the node's journal, on disk; the node runs it."""

    lease: Lease
    credit: Credit


class Decline(Struct, frozen=True, tag="decline"):
    """The node did not take the offer, and did nothing for it.

    Attributes:
        account: The reason goes for other tasks of the account as well.
    """

    lease: Lease
    reason: Text
    credit: Credit
    account: bool = False


class GiveBack(Struct, frozen=True, tag="give_back"):
    """An accepted attempt ends without an outcome, for a reason that is not the function's.

    Attributes:
        started: The request may have reached the function, so this attempt counts as lost.
    """

    lease: Lease
    reason: Text
    started: bool
    credit: Credit


class NodeHeartbeat(Struct, frozen=True, tag="node_heartbeat"):
    """Every `HEARTBEAT_SECONDS`. Renews the leases that it names.

    Attributes:
        sent: Monotonic nanoseconds of the node, which the answer echoes: the round trip.
        available: The node takes work; otherwise `reason` says why not.
        clock_offset: By so many ms the dispatcher's clock is ahead of the node's; None before it was measured.
    """

    sent: int
    leases: list[Lease]
    capabilities: Capabilities
    credit: Credit
    load: Load
    available: bool = True
    reason: Text = ""
    clock_offset: Annotated[float, Meta(ge=-1e15, le=1e15)] | None = None
    images: list[str] | None = None
    warm: list[str] | None = None


class CreditNotice(Struct, frozen=True, tag="credit"):
    """Credit that changed with no other message to carry it."""

    credit: Credit


class Progress(Struct, frozen=True, tag="progress"):
    """How far an attempt is.

    Attributes:
        sequence: Counts up within an attempt; one that is not higher is old and is dropped.
        percent: The function's own figure; None where it said nothing yet.
        pulled: Bytes of the image pulled so far, and in all; while pulling.
    """

    lease: Lease
    sequence: Annotated[int, Meta(ge=0, le=2**53)]
    phase: Phase
    percent: Percent | None = None
    message: Text = ""
    pulled: tuple[Count, Count] | None = None


class Output(Struct, frozen=True, tag="output"):
    """Lines that a function wrote since the last one, for whoever watches. The log itself comes with the outcome."""

    lease: Lease
    sequence: Annotated[int, Meta(ge=0, le=2**53)]
    lines: list[tuple[Literal["stdout", "stderr"], Line]]


Ending = Literal[
    "answered",
    "timeout",
    "oom",
    "crash",
    "external_kill",
    "never_ready",
    "bad_response",
    "result_too_large",
    "image_unavailable",
    "cancelled",
]
"""How an attempt ended, by evidence. What is not the function's doing (drained, engine lost) is a `GiveBack`."""


class Outcome(Struct, frozen=True, tag="outcome"):
    """What became of an attempt. Repeated until it is acknowledged.

    Attributes:
        ending: What happened; ``answered`` carries the function's own answer.
        status: HTTP status of the answer; 0 where there is none.
        headers: End-to-end headers of the answer, in order.
        body: The answer's body, or None where it was uploaded beside the session.
        body_size: Bytes of the body, wherever it is.
        detail: One sentence for people, such as the exit code or the signal.
        cold: A container was started for it.
    """

    lease: Lease
    ending: Ending
    status: Annotated[int, Meta(ge=0, le=999)] = 0
    headers: Headers = []
    body: bytes | None = b""
    body_size: Annotated[int, Meta(ge=0, le=2**53)] = 0
    body_sha256: Text = ""
    detail: Text = ""
    exit_code: int | None = None
    cold: bool = False
    spans: Spans = Spans()
    log: Log = Log()
    credit: Credit | None = None


class NodeGoodbye(Struct, frozen=True, tag="node_goodbye"):
    """The node leaves on purpose and holds nothing any more."""

    reason: Text


# From the dispatcher ------------------------------------------------------------------------------


class DispatcherHello(Struct, frozen=True, tag="dispatcher_hello"):
    """The answer to `NodeHello`.

    Attributes:
        keep: Leases that the node should go on with.
        abandon: Leases that are no longer the node's; it ends the work and drops the outcome.
        result_limit: Bytes that an answer may have.
    """

    version: str
    keep: list[Lease]
    abandon: list[Lease]
    result_limit: int
    wall_ms: int


class Offer(Struct, frozen=True, tag="offer"):
    """Work, against credit. The node answers each with `Accept` or `Decline`.

    Attributes:
        number: 1 for the first offer of a session, then one more each; see `Credit.offers_seen`.
        hold: Do not begin before `Begin`. Set where the function must never run twice: an accept
            that is lost must not leave it running while another node is asked.
        query: Query string as the caller sent it, without the question mark.
        body: The input, or None where it must be fetched beside the session.
        body_size: Bytes of the input, wherever it is.
        account: Whose task it is; empty where the dispatcher is of a version that does not say.
    """

    number: int
    lease: Lease
    revision: Revision
    hold: bool = False
    query: str = ""
    headers: Headers = []
    body: bytes | None = b""
    body_size: int = 0
    account: Text = ""

    @property
    def short(self) -> bool:
        """The node may begin before its journal has the accept: a call that may run twice, and is likely to be over.

        Whoever loses sight of a node that has such an offer must take it that it began.
        """
        return self.revision.may_begin_early and not self.hold and self.body is not None


class Begin(Struct, frozen=True, tag="begin"):
    """The accept of a held offer is recorded: the work may begin."""

    lease: Lease


class Abandon(Struct, frozen=True, tag="abandon"):
    """The lease is not the node's any more: end the work and drop its outcome.

    Of a task that its owner cancelled the outcome is sent all the same: its log is kept.
    """

    lease: Lease
    reason: Literal["cancelled", "stale", "drained"]


class OutcomeAck(Struct, frozen=True, tag="outcome_ack"):
    """The outcome is committed, or refused for good: the node may forget it."""

    lease: Lease
    recorded: bool


class DispatcherHeartbeat(Struct, frozen=True, tag="dispatcher_heartbeat"):
    """The answer to each `NodeHeartbeat`."""

    echo: int
    wall_ms: int


class Prewarm(Struct, frozen=True, tag="prewarm"):
    """All revisions of which this node should keep containers ready, where it has the image and the memory.

    It takes the place of what was said before. A session begins with none.
    """

    revisions: list[Revision]


class DispatcherGoodbye(Struct, frozen=True, tag="dispatcher_goodbye"):
    """The dispatcher closes the session; the node comes back after so many seconds at the earliest."""

    reason: str
    retry_after: float = 0


NodeMessage = (
    NodeHello | Accept | Decline | GiveBack | NodeHeartbeat | CreditNotice | Progress | Output | Outcome | NodeGoodbye
)
DispatcherMessage = (
    DispatcherHello | Offer | Begin | Abandon | OutcomeAck | Prewarm | DispatcherHeartbeat | DispatcherGoodbye
)


class FrameError(ValueError):
    """A frame that is not an array of known messages; the text says where it is wrong."""


_encoder = msgspec.msgpack.Encoder()
_node_decoder = msgspec.msgpack.Decoder(list[NodeMessage])
_dispatcher_decoder = msgspec.msgpack.Decoder(list[DispatcherMessage])


def encode(messages: Sequence[NodeMessage] | Sequence[DispatcherMessage]) -> bytes:
    """Make one frame of several messages."""
    return _encoder.encode(messages)


def decode_from_node(frame: bytes) -> list[NodeMessage]:
    """Read a frame that a node sent.

    Raises:
        FrameError: It is not an array of a node's messages.
    """
    return _decode(_node_decoder, frame)


def decode_from_dispatcher(frame: bytes) -> list[DispatcherMessage]:
    """Read a frame that the dispatcher sent.

    Raises:
        FrameError: It is not an array of a dispatcher's messages.
    """
    return _decode(_dispatcher_decoder, frame)


def _decode(decoder: Any, frame: bytes) -> list[Any]:
    try:
        messages: list[Any] = decoder.decode(frame)
    # Deep nesting ends in RecursionError, text that is not UTF-8 in UnicodeDecodeError (a ValueError).
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise FrameError(str(error)) from None
    return messages
