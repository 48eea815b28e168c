"""What changed, for whoever watches a whole account: which tasks and nodes, never how.

A watcher reads the state of what changed when it is ready to tell it. So many changes of one thing cost
it one look, and what waits for a slow watcher is bounded: beyond that it is only told to look at the
whole again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

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


class Feed:
    """The board on which changes are noted, for nobody where nobody watches."""

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()

    @contextmanager
    def watching(self, account: str, *, tasks: bool, nodes: bool) -> Iterator[Watcher]:
        """Note what changes from now on for one watcher, of tasks, of nodes or of both."""
        watcher = Watcher(account, tasks=tasks, nodes=nodes)
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    def task(self, task_id: str) -> None:
        """Note that a task changed. Whose it is shows when it is looked at."""
        for watcher in self._watchers:
            if watcher.of_tasks:
                watcher.tasks.add(task_id)
                watcher.news.set()

    def node(self, account: str, node_id: str) -> None:
        """Note that what is known of a connected node changed, or that it connected or left."""
        for watcher in self._watchers:
            if watcher.of_nodes and watcher.account == account:
                watcher.nodes.add(node_id)
                watcher.news.set()

    def nodes(self, account: str) -> None:
        """Note that a node joined, was removed or restored: lists of nodes are to be looked at again."""
        for watcher in self._watchers:
            if watcher.of_nodes and watcher.account == account:
                watcher.nodes.shed()
                watcher.news.set()
