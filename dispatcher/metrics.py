"""What the dispatcher counts while it works, and all its figures for ``/metrics``.

Counting is an addition or two; whatever can be looked up is looked up when somebody asks. No label has more values than
this program has words: what users name is never one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from agent.attempt_figures import AttemptFigures
from agent.exposition import Family, Sample, by, counter, gauge, histogram, of_process

if TYPE_CHECKING:
    from dispatcher.core import Core

OLDEST_OF = 1000
"""The age of the oldest waiting task is looked up for so many revisions at most."""


class Metrics:
    """What is counted where it happens.

    Attributes:
        tasks_created: Tasks that were answered 201.
        attempts: Attempts that ended with an outcome.
        attempts_lost: Attempts that a node or an engine lost.
        sessions_begun: Sessions of nodes, from their hello.
    """

    def __init__(self) -> None:
        self.tasks_created = 0
        self.attempts = AttemptFigures("queued")
        self.attempts_lost = 0
        self.sessions_begun = 0
        self._sessions_ended: Counter[str] = Counter()

    def waited(self, milliseconds: float) -> None:
        """Count a task that is offered to a node after so long in the queue."""
        self.attempts.spent("queued", milliseconds)

    def session_ended(self, code: int) -> None:
        """Count a session that ended with a WebSocket close code."""
        self._sessions_ended[str(code)] += 1

    def counted(self) -> Iterable[Family]:
        """Give what was counted."""
        yield counter("tasks_created_total", "Tasks created.", self.tasks_created)
        yield counter("attempts_lost_total", "Attempts that a node or its engine lost.", self.attempts_lost)
        yield from self.attempts.families("task", "; queued: until they were offered")
        yield counter("sessions_begun_total", "Sessions of nodes that began.", self.sessions_begun)
        yield counter("sessions_ended_total", "Sessions of nodes that ended, by WebSocket close code.",
                      by("code", self._sessions_ended))  # fmt: skip


def families(core: Core, oldest_seconds: float | None) -> list[Family]:
    """Give every figure of the dispatcher.

    Args:
        oldest_seconds: How long the task waits that waits longest; None where the store did not say.
    """
    calls = core.store.calls
    by_kind: list[Sample] = [({"kind": "read"}, calls.read.seconds), ({"kind": "write"}, calls.write.seconds)]
    idle, stalled = core.idle(), core.stalled()
    return [
        *core.metrics.counted(),
        counter("tasks_ended_total", "Tasks ended, by error code; OK is an answer.", by("code", core.events.ended)),
        gauge("tasks_waiting", "Tasks that wait for a node.", core.queue.backlog.total),
        gauge("task_wait_oldest_seconds", "Age of the task that waits longest; 0 where none waits.",
              [] if oldest_seconds is None else oldest_seconds),
        gauge("tasks_leased", "Tasks that nodes with a session here hold.", len(core.leases)),
        gauge("nodes_connected", "Nodes that have a session here.", core.queue.nodes),
        gauge("nodes_available", "Nodes that have a session here and take work.", core.sessions.taking_work),
        gauge("callers_waiting", "Callers that wait for a result.", core.events.waiting),
        gauge("event_streams", "Streams of a task's events that are open.", core.events.watching),
        histogram("store_call_seconds", "Time that calls to the store took; writes until their commit.", by_kind),
        counter("store_failures_total", "Calls to the store that found it away.", by("kind", calls.failures)),
        counter("traces_total", "Tasks whose spans were sent, refused by the collector, or dropped since it is away.",
                by("result", core.tracing.tasks if core.tracing is not None else {})),
        gauge("loop_idle_seconds", "Time since a loop last made progress.", by("loop", idle)),
        gauge("loop_stalled", "1 where a loop should have made progress by now, otherwise 0.",
              by("loop", {loop: loop in stalled for loop in idle})),
        *of_process(core.version),
    ]  # fmt: skip
