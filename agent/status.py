"""What an agent says of itself to whoever sits at the machine."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class PermitStatus(Struct, frozen=True, rename="camel"):
    """What is free for tasks, and what they hold: CPUs, MiB of memory, tasks."""

    free_cpus: float
    held_cpus: float
    free_memory: int
    held_memory: int
    free_slots: int
    held_slots: int


class AttemptStatus(Struct, frozen=True, rename="camel"):
    """An attempt that the node holds.

    Attributes:
        function: Id of the function; empty where it ended before the agent's present run.
        state: As in `agent.task_state.State`.
        progress: Percent that the function said last; None if it said nothing.
        pulled: Bytes of the image that are here, and in all; None where none is pulled.
        time_left: Seconds that it may still run, at most; None where it does not run.
        seconds: Since the state was entered.
    """

    task: str
    attempt: int
    function: str
    state: str
    progress: int | None
    pulled: tuple[int, int] | None
    time_left: float | None
    message: str
    seconds: float


class SpoolStatus(Struct, frozen=True, rename="camel"):
    """What is in the journal: attempts, those that ended among them, bytes, and the bytes that it may hold."""

    attempts: int
    finished: int
    bytes: int
    max_bytes: int


class LoopStatus(Struct, frozen=True, rename="camel"):
    """A control loop: seconds since it made progress, and whether that is too long ago."""

    name: str
    seconds: float
    stalled: bool


class NodeStatus(Struct, frozen=True, rename="camel"):
    """The state of a node.

    Attributes:
        phase: As in `agent.node.Phase`.
        reason: Why it takes no work; empty if it does.
        dispatcher: Base address of the dispatcher in use, or of the one to be tried next.
        last_contact: Seconds since the dispatcher was heard; None if it never was.
        round_trip: Median in ms; None before the first.
        clock_offset: By so many ms the dispatcher's clock is ahead; None before the first round trip.
        runtimes: OCI runtimes that functions are run by; empty before the engine was found.
        warm: Revisions with a warm container.
        loops: The control loops that run; see `agent.vitals`.
    """

    node: str
    version: str
    phase: str
    available: bool
    reason: str
    dispatcher: str
    connected: bool
    last_contact: float | None
    round_trip: float | None
    clock_offset: float | None
    permits: PermitStatus
    tasks: list[AttemptStatus]
    runtimes: list[str]
    warm: list[str]
    spool: SpoolStatus
    loops: list[LoopStatus]


OrphanKind = Literal["container", "network", "volume", "file"]


class Orphan(Struct, frozen=True):
    """Something that is left behind, and that nobody needs."""

    kind: OrphanKind
    name: str
    reason: str


class CanaryReport(Struct, frozen=True, rename="camel"):
    """How the canary fared: see `agent.containers.canary`.

    Attributes:
        reach: The way to the container, as in the setting ``containers.reach``.
        steps: What was done, and the ms that it took.
        problem: What went wrong; empty: nothing.
        failed: The step that it went wrong at.
        skipped: Why it could not be tried; empty where it was.
        unbounded: OCI runtimes whose containers no limit holds for: they are in no control group of their own.
    """

    reach: str
    steps: dict[str, float] = {}
    problem: str = ""
    failed: str = ""
    skipped: str = ""
    unbounded: list[str] = []
