"""Tasks whose callers wait for the result, and that are not in the store yet.

Such a caller has been promised nothing before it is answered. So its task is given to a node first and
written when it ends: with its result, in one commit, after which the caller is answered. A task that takes
longer than `WRITE_SECONDS`, or to which anything else happens than an outcome, is written as it stands, and
is a task like any other from then on. What a crash of the dispatcher can take with it is a task of which
nobody was told.

While tasks wait for a node, those that have ended wait for each other, for a moment: they share a commit, which costs
nearly the same for one as for several, and no node is idle meanwhile.

Not every task may begin so: see `may_be_draft`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import structlog

from agent.protocol import Lease
from dispatcher.store.base import Store
from dispatcher.store.errors import StoreUnavailable
from dispatcher.store.records import Ended, NewTask

log = structlog.get_logger()

WRITE_SECONDS = 1.0
"""A shorter time would add a commit to most tasks just when many wait, and the machine is busiest."""

TOGETHER_SECONDS = 0.003
"""So long an end waits at most for others to share its commit."""

TOGETHER_WAITING = 4
"""Ends wait for each other only while so many tasks wait for a node: with fewer of them a node might have to wait."""


class Draft:
    """One such task.

    Attributes:
        settled: How it ended, when that is in the store; None when the task is in the store and goes on.
        lease, node, assigned_ms: Of the node that has it; None while it waits for one.
        accepted: The node has said that it took it.
    """

    def __init__(self, new: NewTask) -> None:
        loop = asyncio.get_running_loop()
        self.new = new
        self.begun = loop.time()
        self.settled: asyncio.Future[Ended | None] = loop.create_future()
        self.lease: Lease | None = None
        self.node = ""
        self.assigned_ms = 0
        self.accepted = False

    def give(self, lease: Lease, node: str, assigned_ms: int) -> None:
        """Note which node has it."""
        self.lease, self.node, self.assigned_ms = lease, node, assigned_ms


def may_be_draft(new: NewTask) -> bool:
    """Say whether a task may run before it is written.

    Not one that must never run twice, which a crash would let it; none whose caller may ask for it again by a key;
    and none with a body that is in the store already.
    """
    return new.revision.retries > 0 and new.idempotency_key is None and new.body is not None


class Drafts:
    """The tasks that are not in the store yet.

    Args:
        waits: Called with a task that is in the store from now on and waits there; `withdrawn` before that.
        withdrawn: Called with a task that no match may be given any more.
    """

    def __init__(self, store: Store, *, waits: Callable[[NewTask], None], withdrawn: Callable[[NewTask], None]) -> None:
        self._store = store
        self._waits = waits
        self._withdrawn = withdrawn
        self._drafts: dict[str, Draft] = {}
        """In the order of their making."""
        self._waiting: dict[str, dict[str, Draft]] = {}
        """Those that no node has, by revision."""
        self._waiting_count = 0
        self._writing: dict[str, asyncio.Task[None]] = {}
        self._ending: dict[str, Draft] = {}
        """Those whose end is being written."""
        self._together: asyncio.Future[None] | None = None
        """Done when the ends that wait for each other are to be written."""
        self._timer: asyncio.TimerHandle | None = None

    def add(self, new: NewTask) -> Draft:
        """Take up a task that waits for a node."""
        draft = Draft(new)
        self._drafts[new.id] = draft
        self._waiting.setdefault(new.revision.key, {})[new.id] = draft
        self._waiting_count += 1
        self._set_timer(WRITE_SECONDS)
        return draft

    def waiting(self, revision_key: str) -> int:
        """Count those of a revision that no node has."""
        return len(self._waiting.get(revision_key, ()))

    def all_waiting(self) -> Iterator[tuple[NewTask, int]]:
        """Give for each revision one of the tasks that no node has, and how many there are."""
        for drafts in self._waiting.values():
            yield next(iter(drafts.values())).new, len(drafts)

    def take(self, revision_key: str) -> Draft | None:
        """Give the oldest task of a revision that no node has: it is about to be given to one."""
        waiting = self._waiting.get(revision_key)
        if not waiting:
            return None
        draft = waiting[next(iter(waiting))]
        self._given(draft)
        return draft

    def accept(self, lease: Lease) -> bool:
        """Note that a node took its task; False where the task is in the store, or soon will be."""
        draft = self._drafts.get(lease.task)
        if draft is None or draft.lease != lease:
            return False
        draft.accepted = True
        return True

    async def finish(self, lease: Lease, node: str, ended: Ended) -> bool:
        """Write a task with the end that its node tells; False where the task is in the store."""
        draft = self._drafts.get(lease.task)
        if draft is None or (draft.lease, draft.node) != (lease, node) or ended.body_key is not None:
            await self.written(lease.task)
            return False
        del self._drafts[lease.task]
        self._ending[lease.task] = draft
        try:
            await self._others()
            await self._store.create_given(
                draft.new, lease, draft.node, draft.assigned_ms, accepted=draft.accepted, ended=ended
            )
        except BaseException as error:
            _fail(draft, error)
            raise
        finally:
            del self._ending[lease.task]
        if not draft.settled.done():
            draft.settled.set_result(ended)
        return True

    def write(self, draft: Draft) -> asyncio.Task[None]:
        """Write a task as it stands, from now on."""
        new = draft.new
        del self._drafts[new.id]
        if draft.lease is None:
            self._given(draft)
            self._withdrawn(new)
        writing = asyncio.create_task(self._write_down(draft), name=f"write {new.id}")
        self._writing[new.id] = writing
        writing.add_done_callback(lambda done: self._written(draft, done))
        return writing

    async def written(self, task_id: str) -> None:
        """Return when a task is in the store, if it is to be there at all. Anything else may be done to it then.

        Raises:
            StoreUnavailable: It is not, and never will be; its caller is told.
        """
        draft = self._drafts.get(task_id)
        writing = self.write(draft) if draft is not None else self._writing.get(task_id)
        if writing is not None:
            await asyncio.shield(writing)
        elif (ending := self._ending.get(task_id)) is not None:
            await asyncio.shield(ending.settled)

    async def close(self) -> None:
        """Write all of them."""
        if self._timer is not None:
            self._timer.cancel()
        for draft in list(self._drafts.values()):
            self.write(draft)
        await asyncio.gather(*self._writing.values(), return_exceptions=True)

    async def _others(self) -> None:
        """Wait for other ends to share a commit with, where that keeps no node waiting."""
        loop = asyncio.get_running_loop()
        if self._waiting_count < TOGETHER_WAITING:
            self._go()
            return
        if self._together is None:
            self._together = loop.create_future()
            loop.call_later(TOGETHER_SECONDS, self._go, self._together)
        # One caller that goes away must not take the moment from the others.
        await asyncio.shield(self._together)

    def _go(self, together: asyncio.Future[None] | None = None) -> None:
        """Let the ends that wait be written; those that a timer was set for, if it is one that calls."""
        if self._together is not None and together in (None, self._together):
            self._together.set_result(None)
            self._together = None

    async def _write_down(self, draft: Draft) -> None:
        if draft.lease is None:
            await self._store.create_task(draft.new)
            self._waits(draft.new)
        else:
            await self._store.create_given(
                draft.new, draft.lease, draft.node, draft.assigned_ms, accepted=draft.accepted
            )

    def _written(self, draft: Draft, writing: asyncio.Task[None]) -> None:
        del self._writing[draft.new.id]
        if writing.cancelled():
            draft.settled.cancel()
        elif (error := writing.exception()) is not None:
            log.warning("task not written", task=draft.new.id, error=str(error))
            _fail(draft, error)
        elif not draft.settled.done():
            draft.settled.set_result(None)

    def _given(self, draft: Draft) -> None:
        key = draft.new.revision.key
        waiting = self._waiting[key]
        del waiting[draft.new.id]
        self._waiting_count -= 1
        if not waiting:
            del self._waiting[key]

    def _set_timer(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._write_old)

    def _write_old(self) -> None:
        """Write those that are old enough; the others have the timer come again."""
        self._timer = None
        now = asyncio.get_running_loop().time()
        for draft in list(self._drafts.values()):
            left = draft.begun + WRITE_SECONDS - now
            if left > 0:
                self._set_timer(left)
                return
            self.write(draft)


def _fail(draft: Draft, error: BaseException) -> None:
    """Tell the caller that nothing is known of its task."""
    if not draft.settled.done():
        draft.settled.set_exception(StoreUnavailable(str(error)))
        draft.settled.exception()  # whoever asked may have gone away
