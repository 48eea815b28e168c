"""What happens to tasks, for whoever watches or waits.

Events are for eyes: they are kept in memory, a bounded number for each task that is under way, and
the store remains the truth. A task that waits for its first attempt, and that nobody watches, takes up
no memory here. A watcher that falls behind misses the oldest ones and sees the gap in
the ids; where a task stands it learns all the same, however many log lines came since.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal, Protocol

from msgspec import Struct

from agent.protocol import Log

KEPT = 256
"""Events kept for each task."""

LOG_BYTES = 64 * 1024 * 1024
"""Bytes of log lines kept of all tasks together."""

LOG_SHARE = 16 * 1024
"""Where more than `LOG_BYTES` are kept, a task that writes has no more than this."""

INTRODUCED_SECONDS = 0.3
"""Other dispatchers have so long to tell what they know of a task that somebody begins to watch."""

RECENT = 4096
"""Ended tasks remembered, so that one that ends just before somebody waits for it is not missed."""

ENDED = 512
"""Ended tasks whose events are kept for who comes late, or comes back."""

ENDED_LOG_BYTES = 4 * 1024 * 1024
"""Bytes of log lines kept of all of them together."""

Kind = Literal["state", "phase", "pull", "progress", "log", "end"]


class Event(Struct, frozen=True):
    """One thing that happened to a task, and when, in milliseconds. Ids count up from 1 within a task."""

    id: int
    kind: Kind
    content: dict[str, Any]
    at_ms: int


class _Channel:
    """The last events of one task and those who wait for the next."""

    def __init__(self) -> None:
        self.events: deque[Event] = deque()
        self.latest: dict[Kind, Event] = {}
        """Of those that had to go, the last one of each kind that says where the task stands."""
        self.log_bytes = 0
        self.omitted = 0
        """Bytes of log lines that had to go."""
        self.count = 0
        self.news = asyncio.Event()
        self.ended = False
        self.taken_in: dict[str, int] = {}
        """Of each other dispatcher the id of the last event that was taken in."""

    def position(self, after: int | None) -> int:
        """Give the id of the last event seen, or 0 where it was seen of another dispatcher."""
        return after if after is not None and after <= self.count else 0

    def after(self, last: int) -> list[Event]:
        kept = sorted(self.latest.values(), key=lambda event: event.id)
        return [event for event in (*kept, *self.events) if event.id > last]

    def add(self, event: Event) -> None:
        self.events.append(event)
        self.log_bytes += _log_bytes(event)
        if len(self.events) > KEPT:
            self._let_go()

    def shrink(self, log_bytes: int) -> None:
        while self.log_bytes > log_bytes:
            self._let_go()

    def log(self) -> Log:
        lines = [event.content["line"] for event in self.events if event.kind == "log"]
        return Log(b"", self.omitted, "".join(f"{line}\n" for line in lines).encode())

    def _let_go(self) -> None:
        event = self.events.popleft()
        size = _log_bytes(event)
        self.log_bytes -= size
        self.omitted += size
        if event.kind != "log":
            self.latest[event.kind] = event


class _Ended:
    """What happened to the tasks that ended last."""

    def __init__(self) -> None:
        self._channels: dict[str, _Channel] = {}
        self._log_bytes = 0

    def add(self, task_id: str, channel: _Channel) -> None:
        channel.shrink(LOG_SHARE)
        self._channels[task_id] = channel
        self._log_bytes += channel.log_bytes
        while len(self._channels) > ENDED or self._log_bytes > ENDED_LOG_BYTES:
            self._log_bytes -= self._channels.pop(next(iter(self._channels))).log_bytes

    def after(self, task_id: str, last: int | None) -> list[Event]:
        channel = self._channels.get(task_id)
        return [] if channel is None else channel.after(channel.position(last))


def _log_bytes(event: Event) -> int:
    return len(event.content["line"].encode()) + 1 if event.kind == "log" else 0


class Outside(Protocol):
    """Other dispatchers on the same store, where tasks may run that are watched here, and the other way round."""

    @property
    def label(self) -> str:
        """What the ids of events here begin with."""

    def happened(self, task: str, event: Event) -> None:
        """Tell those elsewhere who watch a task what has just happened to it."""

    def interest(self, task: str, by: int) -> None:
        """Note that so many more watch a task here, or fewer."""


class Events:
    """The board on which the queue writes and from which the API reads.

    Args:
        changed: Called with the id of each task to which something happened.
    """

    def __init__(self, changed: Callable[[str], None] = lambda _: None, wall: Callable[[], float] = time.time) -> None:
        self._changed = changed
        self._wall = wall
        self._channels: dict[str, _Channel] = {}
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._recent: dict[str, Event] = {}
        """How the last tasks ended."""
        self._ended = _Ended()
        self._watched: Counter[str] = Counter()
        self.outside: Outside | None = None
        self._log_bytes = 0
        self.ended: Counter[str] = Counter()
        """Tasks that ended, by error code; ``OK`` for an answer."""

    @property
    def waiting(self) -> int:
        """Callers that wait for a task to end."""
        return sum(map(len, self._waiting.values()))

    @property
    def watching(self) -> int:
        """Streams of events that are open."""
        return self._watched.total()

    def waits(self, task_id: str) -> None:
        """Tell those who follow its account of a new task. Its own events `begin` with a watcher, or with a node."""
        self._changed(task_id)

    def begin(self, task_id: str, issued_ms: int) -> None:
        """Let the events of a task begin with its first wait, unless something else is known of it."""
        if not self.known(task_id) and task_id not in self._recent:
            self._write(task_id, "state", {"state": "queued"}, issued_ms)

    def publish(self, task_id: str, kind: Kind, content: dict[str, Any]) -> None:
        """Write an event. ``end`` is the last one of a task."""
        event = self._write(task_id, kind, content, int(self._wall() * 1000))
        if kind == "end":
            self.ended[content["error"] or "OK"] += 1
        if self.outside is not None:
            self.outside.happened(task_id, event)

    def take_in(self, sender: str, task_id: str, events: Sequence[Event]) -> None:
        """Write what another dispatcher tells of a task, each event of it once."""
        for event in events:
            if task_id in self._recent:
                return
            channel = self._channel(task_id)
            if event.kind != "end" and event.id <= channel.taken_in.get(sender, 0):
                continue
            channel.taken_in[sender] = event.id
            self._write(task_id, event.kind, event.content, event.at_ms)

    def kept(self, task_id: str) -> list[Event]:
        """Give what is kept of a task: its events, or how it ended."""
        if task_id in self._recent:
            return [self._recent[task_id]]
        channel = self._channels.get(task_id)
        return channel.after(0) if channel is not None else []

    def forget(self, keep: Callable[[str], bool]) -> None:
        """Forget the events of tasks that nobody watches here, but for those to be kept: they may end elsewhere."""
        for task_id in [task_id for task_id in self._channels if not self._watched[task_id] and not keep(task_id)]:
            self._log_bytes -= self._channels.pop(task_id).log_bytes

    def _channel(self, task_id: str) -> _Channel:
        channel = self._channels.get(task_id)
        if channel is None:
            channel = self._channels[task_id] = _Channel()
        return channel

    def _write(self, task_id: str, kind: Kind, content: dict[str, Any], at_ms: int) -> Event:
        channel = self._channel(task_id)
        channel.count += 1
        before = channel.log_bytes
        event = Event(channel.count, kind, content, at_ms)
        channel.add(event)
        if self._log_bytes + channel.log_bytes - before > LOG_BYTES:
            channel.shrink(LOG_SHARE)
        self._log_bytes += channel.log_bytes - before
        channel.news.set()
        if kind != "log":
            self._changed(task_id)
        if kind == "end":
            channel.ended = True
            del self._channels[task_id]
            self._log_bytes -= channel.log_bytes
            self._ended.add(task_id, channel)
            self._recent[task_id] = event
            if len(self._recent) > RECENT:
                del self._recent[next(iter(self._recent))]
            for future in self._waiting.pop(task_id, ()):
                if not future.done():
                    future.set_result(None)
        return event

    @contextmanager
    def _interest(self, task_id: str) -> Iterator[None]:
        """Let it be known that a task is watched."""
        self._watched[task_id] += 1
        if self.outside is not None:
            self.outside.interest(task_id, 1)
        try:
            yield
        finally:
            self._watched[task_id] -= 1
            if self._watched[task_id] == 0:
                del self._watched[task_id]
            if self.outside is not None:
                self.outside.interest(task_id, -1)

    async def introduced(self, task_id: str) -> bool:
        """Say whether anything is known of a task that is under way, here or, as they tell, by other dispatchers."""
        if self.known(task_id) or self.outside is None:
            return self.known(task_id)
        channel = self._channel(task_id)
        with self._interest(task_id), suppress(TimeoutError):
            async with asyncio.timeout(INTRODUCED_SECONDS):
                await channel.news.wait()
        return self.known(task_id)

    def known(self, task_id: str) -> bool:
        """Say whether anything is known of a task that is under way: not after a restart, before there is news."""
        channel = self._channels.get(task_id)
        return channel is not None and channel.count > 0

    def log(self, task_id: str) -> Log:
        """Give what is kept of the lines that a task wrote: its log, where no node will bring it any more."""
        channel = self._channels.get(task_id)
        return channel.log() if channel is not None else Log()

    async def finished(self, task_id: str, seconds: float) -> bool:
        """Wait until a task ends; False when it has not within so many seconds.

        A task that ended long ago is not known here: ask the store first.
        """
        if task_id in self._recent:
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(task_id, set())
        waiting.add(future)
        try:
            async with asyncio.timeout(seconds):
                with self._interest(task_id):
                    await future
        except TimeoutError:
            return False
        finally:
            waiting.discard(future)
            if not waiting and self._waiting.get(task_id) is waiting:
                del self._waiting[task_id]
        return True

    def past(self, task_id: str, after: int | None) -> list[Event]:
        """Give what is still kept of a task that ended, from the event after ``after`` on."""
        return self._ended.after(task_id, after)

    async def watch(self, task_id: str, after: int | None) -> AsyncIterator[Event]:
        """Give the events of a task, from the one after ``after``, to its ``end``.

        Of a task that ended meanwhile, those come that are still kept.

        Args:
            after: Id of the last event seen. One that is unknown here (the dispatcher was
                restarted meanwhile) counts as none.
        """
        if task_id in self._recent:
            for event in self.past(task_id, after):
                yield event
            return
        with self._interest(task_id):
            async for event in self._follow(self._channel(task_id), after):
                yield event

    @staticmethod
    async def _follow(channel: _Channel, after: int | None) -> AsyncIterator[Event]:
        last = channel.position(after)
        while True:
            channel.news.clear()
            for event in channel.after(last):
                yield event
                last = event.id
            if channel.ended and last >= channel.count:
                return
            if channel.count == last:
                await channel.news.wait()
