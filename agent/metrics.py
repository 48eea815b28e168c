"""What the agent counts while it works, and all its figures for ``fernd agent metrics``.

Counting is an addition or two; whatever the status of the node says already is taken from there. No label has more
values than this program has words.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent.attempt_figures import AttemptFigures
from agent.calls import Calls
from agent.exposition import Family, Sample, by, counter, gauge, histogram, of_process
from agent.protocol import Outcome
from agent.status import NodeStatus, PermitStatus

MIB = 1024 * 1024

REASONS = frozenset(
    {
        "cancelled",
        "connection_lost",
        "disk",
        "drained",
        "engine_error",
        "engine_lost",
        "internal_error",
        "no_internet",
        "no_room",
        "not_privileged",
        "stale",
        "stopped_by_owner",
    }
)
"""Why attempts are given back, as it is counted; a reason in other words is an ``other``."""


class Metrics:
    """What is counted where it happens.

    Attributes:
        attempts: Attempts that ended with an outcome.
        offers_taken: Offers that became attempts.
        offers_declined: Offers that did not.
        sessions_tried: Tries to connect to a dispatcher.
        sessions_begun: Sessions, from the dispatcher's hello.
    """

    def __init__(self) -> None:
        self.attempts = AttemptFigures()
        self.offers_taken = 0
        self.offers_declined = 0
        self.sessions_tried = 0
        self.sessions_begun = 0
        self._ended: dict[str, int] = {}
        self._given_back: dict[str, int] = {}

    def ran(self, outcome: Outcome) -> None:
        """Count an attempt that ended with an outcome. What its upload takes is known later."""
        self.attempts.ran(outcome)
        self._ended[outcome.ending] = self._ended.get(outcome.ending, 0) + 1

    def gave_back(self, reason: str) -> None:
        """Count an attempt that ended without one."""
        known = reason if reason in REASONS else "other"
        self._given_back[known] = self._given_back.get(known, 0) + 1

    def counted(self) -> Iterable[Family]:
        """Give what was counted."""
        offers = {"declined": self.offers_declined, "taken": self.offers_taken}
        yield counter("node_offers_total", "Offers of the dispatcher, by the answer.", by("answer", offers))
        yield counter("node_attempts_ended_total", "Attempts that ended with an outcome, by ending.",
                      by("ending", self._ended))  # fmt: skip
        yield counter("node_attempts_given_back_total", "Attempts that ended without one, by reason.",
                      by("reason", self._given_back))  # fmt: skip
        yield from self.attempts.families("node", " on this node")
        yield counter("node_session_tries_total", "Tries to connect to a dispatcher.", self.sessions_tried)
        yield counter("node_sessions_begun_total", "Sessions with a dispatcher that began.", self.sessions_begun)


def families(status: NodeStatus, metrics: Metrics, engine: Calls) -> list[Family]:
    """Give every figure of the agent.

    Args:
        engine: The calls to the container engine.
    """
    spool = status.spool
    return [
        *metrics.counted(),
        gauge("node_phase_info", "The phase that the node is in; always 1.", [({"phase": status.phase}, 1)]),
        gauge("node_available", "1 where the node takes work, otherwise 0.", status.available),
        gauge("node_connected", "1 while there is a session with a dispatcher, otherwise 0.", status.connected),
        gauge("node_last_contact_seconds", "Time since the dispatcher was heard.", _if_known(status.last_contact)),
        gauge("node_round_trip_seconds", "Median round trip to the dispatcher.", _if_known(status.round_trip, 1000)),
        gauge("node_clock_offset_seconds", "By so much the dispatcher's clock is ahead.",
              _if_known(status.clock_offset, 1000)),
        *_of_permits(status.permits),
        gauge("node_containers_warm", "Revisions with a warm container.", len(status.warm)),
        gauge("node_spool_attempts", "Attempts in the journal, by whether they have ended.",
              by("state", {"ended": spool.finished, "open": spool.attempts - spool.finished})),
        gauge("node_spool_bytes", "Bytes of the journal, large bodies included.", spool.bytes),
        gauge("node_spool_limit_bytes", "Bytes of the journal above which no work is taken.", spool.max_bytes),
        histogram("node_engine_call_seconds", "Time that calls to the container engine took.", engine.seconds),
        counter("node_engine_failures_total", "Calls to the container engine that failed: refused, or the engine away.",
                by("kind", engine.failures)),
        gauge("node_loop_idle_seconds", "Time since a control loop last made progress.",
              by("loop", {loop.name: loop.seconds for loop in status.loops})),
        gauge("node_loop_stalled", "1 where a control loop should have made progress by now, otherwise 0.",
              by("loop", {loop.name: loop.stalled for loop in status.loops})),
        *of_process(status.version),
    ]  # fmt: skip


def _of_permits(permits: PermitStatus) -> Iterable[Family]:
    for name, what, free, held in (
        ("node_cpus", "CPUs", permits.free_cpus, permits.held_cpus),
        ("node_memory_bytes", "Memory", permits.free_memory * MIB, permits.held_memory * MIB),
        ("node_slots", "Places", permits.free_slots, permits.held_slots),
    ):
        yield gauge(name, f"{what} for tasks: free, and held by tasks.", by("state", {"free": free, "held": held}))


def _if_known(value: float | None, divisor: float = 1) -> float | list[Sample]:
    """Give a figure that is not known yet as no sample."""
    return [] if value is None else value / divisor
