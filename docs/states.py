"""The page of the state machines, found out by trying: see `docs.reference`.

The dispatcher's is drawn from what a real store does with a task in each state. The agent's is drawn from
`agent.task_state.step`, asked about every event in every state that can be reached.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeAlias, get_args

import msgspec

from agent import task_state
from agent.protocol import Lease, Phase, Revision
from agent.task_state import WORKING, Life, step
from agent.task_state import State as AttemptState
from dispatcher.endings import without_answer
from dispatcher.store.base import Store
from dispatcher.store.records import Ended, NewTask, State
from dispatcher.store.sqlite import SqliteStore

Edges: TypeAlias = dict[tuple[str, str], set[str]]
"""From a state to another, and by what."""

RESTORED = (AttemptState.SPOOLED, AttemptState.INTERRUPTED, AttemptState.ACCEPTED, AttemptState.GIVING_BACK)
"""Where an attempt begins that an earlier run of the agent left."""


def page() -> Iterator[str]:
    """Write the page, paragraph by paragraph."""
    yield "# States"
    yield (
        "Both pictures are made from the code, by trying: the first from what the store does with a task in each of its"
        " states, the second from `agent/task_state.py`, asked about every event in every state."
    )
    yield "## A task"
    yield (
        "What `state` says in answers of the API. While a task is accepted, it says the phase as soon as the node has"
        " told one; phases may be left out, and a job or a warm container has fewer of them."
    )
    yield _mermaid(_task_picture(asyncio.run(task_edges())))
    yield (
        "An attempt that is lost brings the task back with the next attempt number, as long as the function's `retries`"
        " last. A late outcome is still taken as long as no other node has claimed the task. Finished and cancelled are"
        " the end: nothing changes the state of such a task any more."
    )
    yield "## An attempt on its node"
    yield (
        "What `fernd agent status` shows. Whatever arrives in a state that has no arrow for it changes nothing:"
        " messages and disk writes cross each other, and none of those crossings is an error. An agent that is started"
        f" again takes up what it finds in its journal as {_listed(RESTORED)}."
    )
    yield _mermaid(_attempt_picture(attempt_edges()))


# The dispatcher -----------------------------------------------------------------------------------

_ACCOUNT, _NODE = "account", "node"


class _Case:
    """A task of its own in a store, and what can be done to it."""

    def __init__(self, store: Store, number: int, retries: int) -> None:
        self._store = store
        self._revision = Revision(f"{number:024x}", 1, "image", retries=retries)
        self._id = f"{number:024x}"
        self._lease = Lease(self._id, 1, number.to_bytes(16))

    async def create(self) -> None:
        await self._store.create_task(NewTask(self._id, _ACCOUNT, self._revision, 1000, "", [], b"", 0))

    async def claim(self) -> None:
        for claim in await self._store.claim(self._revision.key, _NODE, [self._lease.token], 2000):
            self._lease = claim.lease

    async def accept(self) -> None:
        await self._store.accept(self._lease, _NODE)

    async def release(self) -> None:
        await self._store.release(self._lease)

    async def lose(self) -> None:
        await self._store.lose(self._lease, without_answer("NODE_LOST", "", 3000))

    async def finish(self) -> None:
        await self._store.finish(self._lease, _NODE, Ended(3000, 200, [], b"", 0))

    async def cancel(self) -> None:
        await self._store.cancel(_ACCOUNT, self._id, without_answer("CANCELLED", "", 3000))

    async def expire(self) -> None:
        await self._store.expire_queued(self._revision.key, 9000, without_answer("NO_CAPABLE_NODE", "", 9000), 10)

    async def state(self) -> State:
        task = await self._store.task(_ACCOUNT, self._id)
        assert task is not None, "it was created"  # noqa: S101
        return task.state


_Step: TypeAlias = Callable[[_Case], Awaitable[None]]

_WAYS: tuple[tuple[_Step, ...], ...] = (
    (_Case.create,),
    (_Case.create, _Case.claim, _Case.accept, _Case.lose),
    (_Case.create, _Case.claim),
    (_Case.create, _Case.claim, _Case.accept),
    (_Case.create, _Case.claim, _Case.accept, _Case.finish),
    (_Case.create, _Case.cancel),
    (_Case.create, _Case.claim, _Case.accept, _Case.cancel),
)
"""Ways into each state."""

_STEPS: dict[_Step, str] = {
    _Case.claim: "offered to a node",
    _Case.accept: "accepted by the node",
    _Case.release: "declined, not answered, or given back before it began",
    _Case.lose: "attempt lost",
    _Case.finish: "outcome recorded",
    _Case.cancel: "cancelled by its owner",
    _Case.expire: "no node could run it",
}
"""All that changes a task, in words."""


async def task_edges() -> Edges:
    """Try every step in every state, on a store of its own, with attempts left and without."""
    edges: Edges = defaultdict(set)
    with tempfile.TemporaryDirectory() as directory:
        store = SqliteStore(Path(directory) / "states.sqlite", synchronous="normal")
        await store.open()
        try:
            numbers = itertools.count(1)
            for way, (try_, words), retries in itertools.product(_WAYS, _STEPS.items(), (2, 0)):
                case = _Case(store, next(numbers), retries)
                for taken in way:
                    await taken(case)
                before = await case.state()
                await try_(case)
                if (after := await case.state()) is not before:
                    edges[before, after].add(words)
        finally:
            await store.close()
    return edges


def _task_picture(edges: Edges) -> Iterator[str]:
    yield "[*] --> queued : created"
    phases = list(get_args(Phase))
    yield "state accepted {"
    yield f"    [*] --> {phases[0]}"
    for before, after in itertools.pairwise(phases):
        yield f"    {before} --> {after}"
    yield "}"
    yield from _arrows(edges, order=list(State))
    for end in (State.FINISHED, State.CANCELLED):
        assert not any(before == end for before, _ in edges), "an end is an end"  # noqa: S101
        yield f"{end} --> [*]"


# The agent ----------------------------------------------------------------------------------------


def attempt_edges() -> Edges:
    """Ask `step` about every event in every state that can be reached."""
    events = [event for kind in get_args(task_state.Event) for event in _examples(kind)]
    waiting = [Life(), Life(hold=True), *(Life(state, upload=upload) for state in RESTORED for upload in (False, True))]
    seen = set(waiting)
    edges: Edges = defaultdict(set)
    while waiting:
        life = waiting.pop()
        for event in events:
            after, _ = step(life, event)
            if after.state is not life.state:
                edges[life.state, after.state].add(_words(type(event).__name__))
            if after not in seen:
                seen.add(after)
                waiting.append(after)
    return edges


def _examples(kind: type[msgspec.Struct]) -> Iterator[task_state.Event]:
    """Make one event of a kind for each combination of what its fields can be; of texts, one will do."""
    fields = msgspec.structs.fields(kind)
    choices = [
        (False, True) if field.type is bool else ("words",) if field.type is str else get_args(field.type)
        for field in fields
    ]
    for values in itertools.product(*choices):
        yield kind(**dict(zip((field.name for field in fields), values, strict=True)))  # type: ignore[misc]


def _attempt_picture(edges: Edges) -> Iterator[str]:
    """Draw the working states as one with the arrows that all of them have, and beside it those that some have."""
    yield f"[*] --> {AttemptState.OFFERED} : offer"
    yield "state working {"
    inside = [state for state in AttemptState if state in WORKING]
    yield f"    [*] --> {inside[0]}"
    for before, after in itertools.pairwise(inside):
        yield f"    {before} --> {after}"
    yield "}"
    drawn: Edges = defaultdict(set)
    for (source, target), words in edges.items():
        if source in WORKING and target in WORKING:
            continue
        common = set.intersection(*(edges.get((each, target), set()) for each in WORKING))
        if source in WORKING and words - common:
            drawn[source, target] |= words - common
        if source not in WORKING:
            drawn[source, "working" if target in WORKING else target] |= words
        elif common:
            drawn["working", target] |= common
    order: list[str] = [*AttemptState, "working"]
    yield from _arrows(drawn, order)
    for ending in (state for state in AttemptState if state in task_state.ENDED):
        assert not any(before == ending for before, _ in edges), "an end is an end"  # noqa: S101
        yield f"{ending} --> [*]"


# Drawing ------------------------------------------------------------------------------------------


def _arrows(edges: Edges, order: list[str]) -> Iterator[str]:
    for before, after in sorted(edges, key=lambda edge: (order.index(edge[0]), order.index(edge[1]))):
        yield f"{before} --> {after} : {', '.join(sorted(edges[before, after]))}"


def _mermaid(lines: Iterable[str]) -> str:
    return "\n".join(["```mermaid", "stateDiagram-v2", *(f"    {line}" for line in lines), "```"])


def _words(name: str) -> str:
    """Turn the name of an event into words."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", name).lower()


def _listed(states: Iterable[str]) -> str:
    *most, last = (f"`{state}`" for state in states)
    return f"{', '.join(most)} or {last}"
