"""What may happen to a task. Pure: a row that is locked goes in, and comes out changed or not.

A lease is the task's present one when task, attempt and token are those of the row. An attempt that
is lost leaves its token in the row and counts the attempt up: so the lost lease can still end the
task, until a claim overwrites the token.

Only the dispatcher at which a node has its session may say that the node lost a task, or did not take it: another
one, where the node was before, sees it as silent and knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from agent.protocol import Lease, Log, Phase
from dispatcher.store import rows
from dispatcher.store.access import AuditLine
from dispatcher.store.errors import BodyMissing
from dispatcher.store.records import Ended, Lost, Task, Verdict


class Life(Struct):
    """The row of a task, with the definition of its revision and the dispatcher that has its node's session."""

    id: str
    account: str
    definition: bytes
    state: str
    phase: str | None
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
    spans: bytes | None
    cold: bool | None
    token: bytes | None
    replica: str | None
    changed: bool = False
    ended: Ended | None = None
    """What ended the task in this transaction."""
    log: Log = Log()
    """What is to be kept of its log, where that is something."""

    def held(self, lease: Lease) -> bool:
        """Say whether a lease is the present one of a task that a node holds."""
        return self.state in {"offered", "accepted"} and (self.attempt, self.token) == (lease.attempt, lease.token)

    def endable(self, lease: Lease, node: str) -> bool:
        """Say whether a lease can end its task: it is the present one, or was lost and the task not claimed since."""
        if self.token != lease.token or self.node != node:
            return False
        lost = self.state == "queued" and self.attempt == lease.attempt + 1
        return lost or self.held(lease)

    def ended_by(self, lease: Lease, node: str) -> bool:
        """Say whether the task has ended, by this lease, or because it was cancelled while this lease held it."""
        same = (self.attempt, self.token, self.node) == (lease.attempt, lease.token, node)
        return same and self.finished_ms is not None

    def end(self, ended: Ended, by: Lease | None = None) -> None:
        """End the task. Of its leases only ``by`` is known afterwards: it may ask again, or bring the log."""
        self.changed, self.ended, self.log = True, ended, ended.log
        self.state = ended.state
        self.finished_ms = ended.finished_ms
        self.status = ended.status
        self.error = ended.error
        self.detail = ended.detail
        self.ending = ended.ending
        self.spans = rows.encode(ended.spans)
        self.cold = ended.cold
        self.attempt = self.attempt if by is None else by.attempt
        self.token = None if by is None else by.token
        self.phase = ended.phase or self.phase
        self.progress = 100 if ended.error is None else max(self.progress, ended.percent or 0)

    def present_lease(self) -> Lease | None:
        """Give the lease by which a node holds the task now."""
        if self.token is None or self.state not in {"offered", "accepted"}:
            return None
        return Lease(self.id, self.attempt, self.token)

    def task(self) -> Task:
        """Show the row as a task."""
        return rows.task([getattr(self, name) for name in self.__struct_fields__[:18]])


class Accept(Struct, frozen=True):
    """See `Store.accept`."""

    lease: Lease
    node: str

    def apply(self, life: Life, _world: World) -> bool:
        """Change the row."""
        if not life.held(self.lease) or life.node != self.node:
            return False
        life.changed |= life.state != "accepted"
        life.state = "accepted"
        return True


class Release(Struct, frozen=True):
    """See `Store.release`."""

    lease: Lease

    def apply(self, life: Life, world: World) -> bool:
        """Change the row."""
        if not life.held(self.lease) or not world.owns(life):
            return False
        life.changed, life.state = True, "queued"
        life.phase = life.node = life.token = life.assigned_ms = None
        return True


class Lose(Struct, frozen=True):
    """See `Store.lose`."""

    lease: Lease
    otherwise: Ended

    def apply(self, life: Life, world: World) -> Lost:
        """Change the row."""
        if not life.held(self.lease) or not world.owns(life):
            return Lost.STALE
        if self.lease.attempt > rows.revision(life.definition).retries:
            life.end(self.otherwise)
            return Lost.EXHAUSTED
        life.changed, life.state, life.attempt = True, "queued", life.attempt + 1
        return Lost.REQUEUED


class Progress(Struct, frozen=True):
    """See `Store.progress`."""

    lease: Lease
    phase: Phase
    percent: int | None
    message: str

    def apply(self, life: Life, _world: World) -> bool:
        """Change the row."""
        if not life.held(self.lease):
            return False
        life.changed, life.phase = True, self.phase
        life.progress = max(life.progress, self.percent or 0)
        if self.percent is not None or self.message:
            life.progress_message = self.message
        return True


class Finish(Struct, frozen=True):
    """See `Store.finish`."""

    lease: Lease
    node: str
    ended: Ended

    def apply(self, life: Life, world: World) -> Verdict | BodyMissing:
        """Change the row."""
        if life.endable(self.lease, self.node):
            key = self.ended.body_key
            if key is not None and key not in world.bodies:
                return BodyMissing(key)
            life.end(self.ended, by=self.lease)
            return Verdict.RECORDED
        if not life.ended_by(self.lease, self.node):
            return Verdict.STALE
        if life.state == "cancelled":
            self._add_to_cancelled(life)
            return Verdict.CANCELLED
        return Verdict.RECORDED if world.again else Verdict.REPEATED

    def _add_to_cancelled(self, life: Life) -> None:
        """Keep what the node knows of a task that was cancelled on it: once, in place of the log as it was then."""
        if life.cold is None:
            life.changed, life.cold, life.spans = True, self.ended.cold, rows.encode(self.ended.spans)
            life.log = self.ended.log if self.ended.log != Log() else life.log


class Cancel(Struct, frozen=True):
    """See `Store.cancel`."""

    account: str
    task: str
    ended: Ended
    audit: AuditLine | None = None

    def apply(self, life: Life, world: World) -> tuple[Task, bool] | None:
        """Change the row."""
        if life.account != self.account:
            return None
        before, ends = life.task(), life.finished_ms is None
        if ends:
            life.end(self.ended, by=life.present_lease())
            world.audit += [self.audit] if self.audit is not None else []
        return before, ends


class World(Struct):
    """What else decides, and what else is to be written.

    Attributes:
        replica: The dispatcher that asks.
        bodies: Sizes of the large bodies that are named and there.
        again: The same writes may have been committed just before, by a try that broke off.
        audit: Lines of what was changed.
    """

    replica: str
    bodies: Mapping[str, int] = {}
    again: bool = False
    audit: list[AuditLine] = []

    def owns(self, life: Life) -> bool:
        """Say whether the node of a task has its session here, or nowhere."""
        return life.replica in {None, self.replica}


Step = Accept | Release | Lose | Progress | Finish | Cancel


def task_of(step: Step) -> str:
    """Give the id of the task that a step is about."""
    return step.task if isinstance(step, Cancel) else step.lease.task


def without_task(step: Step) -> Any:
    """Give the answer where there is no such task."""
    match step:
        case Accept() | Release() | Progress():
            return False
        case Lose():
            return Lost.STALE
        case Finish():
            return Verdict.STALE
        case Cancel():
            return None


def repeatable(step: Step) -> bool:
    """Say whether making a step twice comes to the same."""
    return isinstance(step, Accept | Progress | Finish)
