"""Whose turn it is: accounts take turns, and within an account what it asks of a node, and its revisions. Pure.

The account that was served longest ago comes first, whatever it asks for and however much of it waits. One that
begins to wait comes after those that waited already, so that k of its tasks wait for k others of each account at
most, for each of which there was room. Within an account a revision may go before its turn: see `Line.go_on_with`.

A `Line` is what one account wants of one kind of node, and `Lines` is all that is wanted of that kind. Each keeps its
accounts in a heap. Who was served stands there too early in the heaps of other kinds, which `Lines.first` mends when
it meets it: once for each heap and time that the account was served.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable

from dispatcher.needs import Need

Place = tuple[int, int, int]
"""When the account of a line was served last, when the line was, and the line's number: least comes first."""


class _Account:
    def __init__(self, name: str, served: int) -> None:
        self.name = name
        self.served = served
        self.lines: dict[Lines, Line] = {}


class Line:
    """Keys of revisions with demand, of one account and for one kind of node, whose turn goes round."""

    def __init__(self, account: _Account, lines: Lines, number: int) -> None:
        self.keys: OrderedDict[str, None] = OrderedDict()
        self._account = account
        self._lines = lines
        self._number = number
        self._served = account.served
        self.stands = False
        """It stands in the heap of its `Lines`."""

    @property
    def account(self) -> str:
        """Whose revisions they are."""
        return self._account.name

    @property
    def place(self) -> Place:
        """Where it stands now among other lines."""
        return self._account.served, self._served, self._number

    def go_on_with(self, key: str) -> None:
        """Let a revision go before the others of this line; whose turn it is among the accounts stays as it is."""
        self.keys.move_to_end(key, last=False)

    def serve(self, now: int) -> None:
        """Put it, and its account, behind all others."""
        self._account.served = self._served = now

    def leave(self) -> bool:
        """Take it out for good; True where its account has no other."""
        del self._account.lines[self._lines]
        return not self._account.lines


class Lines:
    """The lines of all accounts for one kind of node."""

    def __init__(self, turns: Turns, need: Need) -> None:
        self.need = need
        self._turns = turns
        self._heap: list[tuple[Place, Line]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def stand(self, line: Line) -> None:
        """Let a line stand in the heap; once is enough."""
        if not line.stands:
            line.stands = True
            heapq.heappush(self._heap, (line.place, line))

    def first(self) -> Line | None:
        """Give the line whose turn it is, or None."""
        heap = self._heap
        while heap:
            place, line = heap[0]
            if not line.keys:
                heapq.heappop(heap)
                self._turns.end(line)
            elif self._turns.is_full(line.account):
                heapq.heappop(heap)
                line.stands = False
            elif place != line.place:
                heapq.heapreplace(heap, (line.place, line))
            else:
                return line
        return None


class Turns:
    """All accounts that wait.

    Args:
        is_full: Says whether no more may run for an account. Its lines stand aside when they are met, and come back
            with `has_room`.
    """

    def __init__(self, is_full: Callable[[str], bool] = lambda _: False) -> None:
        self.is_full = is_full
        self._accounts: dict[str, _Account] = {}
        self._served = 0
        self._numbers = 0

    def wait(self, lines: Lines, account: str, key: str) -> Line:
        """Let a revision of an account stand in line, behind its others, and give the line."""
        waiting = self._accounts.get(account)
        if waiting is None:
            waiting = self._accounts[account] = _Account(account, self._served)
        line = waiting.lines.get(lines)
        if line is None:
            self._numbers += 1
            line = waiting.lines[lines] = Line(waiting, lines, self._numbers)
        line.keys[key] = None
        lines.stand(line)
        return line

    def serve(self, line: Line) -> None:
        """Note that a task of this line was given to a node."""
        self._served += 1
        line.serve(self._served)

    def end(self, line: Line) -> None:
        """Take out a line in which nothing waits any more."""
        if line.leave():
            del self._accounts[line.account]

    def has_room(self, account: str) -> list[Need]:
        """Let the lines of an account stand where they stood before it was full; give what they ask for."""
        waiting = self._accounts.get(account)
        if waiting is None:
            return []
        for lines, line in waiting.lines.items():
            lines.stand(line)
        return [lines.need for lines in waiting.lines]
