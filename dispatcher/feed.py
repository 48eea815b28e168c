"""What changed, for whoever watches a whole account: which tasks and nodes, never how.

A watcher reads the state of what changed when it is ready to tell it. So many changes of one thing cost
it one look, and what waits for a slow watcher is bounded: beyond that it is only told to look at the
whole again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from msgspec import Struct

MOST_TASKS = 200
MOST_NODES = 100
"""Changes that wait for a watcher; those beyond are shed."""


class Changes(Struct, frozen=True):
    """What changed since the last look. Where some were shed, the whole list may have changed."""

    tasks: list[str]
    nodes: list[str]
    tasks_shed: bool
    nodes_shed: bool


class _Changed:
    """Ids of what changed, in the order of their first change; at most so many."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._ids: dict[str, None] = {}
        self._shed = False

    def add(self, changed: str) -> None:
        if self._shed:
            return
        self._ids[changed] = None
        if len(self._ids) > self._most:
            self.shed()

    def shed(self) -> None:
        self._shed = True
        self._ids.clear()

    def take(self) -> tuple[list[str], bool]:
        taken = list(self._ids), self._shed
        self._ids, self._shed = {}, False
        return taken


class Watcher:
    """What changed and one watcher was not told yet."""

    def __init__(self, account: str, *, tasks: bool, nodes: bool) -> None:
        self.account = account
        self.of_tasks = tasks
        self.of_nodes = nodes
        self.news = asyncio.Event()
        """Set when there is something to take."""
        self.tasks = _Changed(MOST_TASKS)
        self.nodes = _Changed(MOST_NODES)

    def take(self) -> Changes:
        """Give what changed; it is told then."""
        self.news.clear()
        tasks, tasks_shed = self.tasks.take()
        nodes, nodes_shed = self.nodes.take()
        return Changes(tasks, nodes, tasks_shed, nodes_shed)


class Outside(Protocol):
    """Other dispatchers on the same store, whose tasks and nodes may be watched here, and the other way round."""

    def task_changed(self, task: str) -> None:
        """Tell that a task changed."""

    def node_changed(self, account: str, node: str) -> None:
        """Tell that a node changed."""

    def nodes_changed(self, account: str) -> None:
        """Tell that an account has other nodes than before."""

    def follows(self) -> None:
        """Note that somebody begins to follow an account here, or ends."""


class Feed:
    """The board on which changes are noted, for nobody where nobody watches."""

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()
        self.outside: Outside | None = None

    @property
    def followed(self) -> bool:
        """Somebody follows an account."""
        return bool(self._watchers)

    def take_in(self, tasks: Iterable[str], nodes: Iterable[tuple[str, str]], accounts: Iterable[str]) -> None:
        """Note what changed elsewhere."""
        for task_id in tasks:
            self._task(task_id)
        for account, node_id in nodes:
            self._node(account, node_id)
        for account in accounts:
            self._nodes(account)

    @contextmanager
    def watching(self, account: str, *, tasks: bool, nodes: bool) -> Iterator[Watcher]:
        """Note what changes from now on for one watcher, of tasks, of nodes or of both."""
        watcher = Watcher(account, tasks=tasks, nodes=nodes)
        self._watchers.add(watcher)
        if self.outside is not None:
            self.outside.follows()
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)
            if self.outside is not None:
                self.outside.follows()

    def task(self, task_id: str) -> None:
        """Note that a task changed. Whose it is shows when it is looked at."""
        self._task(task_id)
        if self.outside is not None:
            self.outside.task_changed(task_id)

    def _task(self, task_id: str) -> None:
        for watcher in self._watchers:
            if watcher.of_tasks:
                watcher.tasks.add(task_id)
                watcher.news.set()

    def node(self, account: str, node_id: str) -> None:
        """Note that what is known of a connected node changed, or that it connected or left."""
        self._node(account, node_id)
        if self.outside is not None:
            self.outside.node_changed(account, node_id)

    def _node(self, account: str, node_id: str) -> None:
        for watcher in self._watchers:
            if watcher.of_nodes and watcher.account == account:
                watcher.nodes.add(node_id)
                watcher.news.set()

    def nodes(self, account: str) -> None:
        """Note that a node joined, was removed or restored: lists of nodes are to be looked at again."""
        self._nodes(account)
        if self.outside is not None:
            self.outside.nodes_changed(account)

    def _nodes(self, account: str) -> None:
        for watcher in self._watchers:
            if watcher.of_nodes and watcher.account == account:
                watcher.nodes.shed()
                watcher.news.set()
