"""What the dispatcher counts while it works: an addition or two each. `dispatcher.routes.metrics` shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from agent.attempt_figures import AttemptFigures
from agent.exposition import Family, by, counter


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
