"""Who watches which task where: those here who watch tasks that run elsewhere, and those elsewhere who watch ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from dispatcher.events import Event, Events
from dispatcher.replicas.messages import Follows, Happened, Unwatch, Watch
from dispatcher.replicas.post import Post

MOST_ELSEWHERE = 100_000
"""Tasks that others watch and that are remembered; beyond that the oldest are forgotten."""


class Interest:
    """What is watched here is made known to the others as long as the task is not held here, and the other way round.

    Args:
        held: Says of a task whether a node here holds it.
    """

    def __init__(self, events: Events, post: Post, held: Callable[[str], bool]) -> None:
        self._events = events
        self._post = post
        self._held = held
        self._here: Counter[str] = Counter()
        self._told: set[str] = set()
        """Tasks of which the others know that they are watched here."""
        self._elsewhere: dict[str, set[str]] = {}
        """Tasks that others watch, and who does."""
        self.followers: set[str] = set()
        """Others where somebody follows whole accounts."""
        self._follows = False

    # those here

    def changed(self, task: str, by: int) -> None:
        """Note that so many more watch a task here, or fewer."""
        self._here[task] += by
        if self._here[task] <= 0:
            del self._here[task]
        self._post.wake()

    def watched_afar(self) -> list[str]:
        """List the tasks that are watched here and not held here."""
        return [task for task in self._here if not self._held(task)]

    def tell(self, *, follows: bool) -> None:
        """Tell the others what they do not know yet."""
        wanted = set(self.watched_afar())
        # What was told stays told while it is watched, wherever it runs by now.
        over = {task for task in self._told if task not in self._here}
        fresh = wanted - self._told
        if over:
            self._post.tell(Unwatch(sorted(over)))
        if fresh:
            self._post.tell(Watch(sorted(fresh)))
        self._told = (self._told - over) | fresh
        if follows != self._follows:
            self._follows = follows
            self._post.tell(Follows(follows))

    def introduce(self, name: str) -> None:
        """Tell a dispatcher that has just come all that the others know."""
        if self._told:
            self._post.tell(Watch(sorted(self._told)), name)
        self._post.tell(Follows(self._follows), name)

    # those elsewhere

    def watch(self, name: str, tasks: list[str]) -> None:
        """Note that another watches tasks, and tell it what is known of them."""
        for task in tasks:
            known = self._events.kept(task)
            if known:
                self._post.tell(Happened(task, known), name)
            if known and known[-1].kind == "end":
                continue
            self._elsewhere.setdefault(task, set()).add(name)
            if len(self._elsewhere) > MOST_ELSEWHERE:
                del self._elsewhere[next(iter(self._elsewhere))]

    def unwatch(self, name: str, tasks: list[str]) -> None:
        """Note that another does not watch tasks any more."""
        for task in tasks:
            names = self._elsewhere.get(task, set())
            names.discard(name)
            if not names:
                self._elsewhere.pop(task, None)

    def gone(self, name: str) -> None:
        """Forget a dispatcher."""
        self.followers.discard(name)
        self.unwatch(name, [task for task, names in self._elsewhere.items() if name in names])

    def relay(self, task: str, event: Event) -> None:
        """Tell those elsewhere who watch a task what has just happened to it here."""
        for name in self._elsewhere.get(task, ()):
            self._post.tell(Happened(task, [event]), name)
        if event.kind == "end":
            self._elsewhere.pop(task, None)
