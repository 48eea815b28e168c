"""How many tasks of each account nodes hold, and which accounts may have no more for now. Pure.

Counted are the offers too, from the match on. What nodes of other dispatchers hold is known as they tell it, a moment
later: in that moment an account may get beyond its limit, by what the dispatchers offer meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping


class Running:
    """The tasks that are with nodes, by account.

    Args:
        most_of: Says how many of an account's may be; None where there is no limit.
    """

    def __init__(self, most_of: Callable[[str], int | None] = lambda _: None) -> None:
        self._most_of = most_of
        self._here: Counter[str] = Counter()
        self._elsewhere: dict[str, dict[str, int]] = {}
        """Of each other dispatcher, what it told of accounts that have tasks with its nodes."""
        self._untold: set[str] = set()
        self.has_room: Callable[[str], None] = lambda _: None
        """Called with an account that was full and is not any more."""
        self.changed: Callable[[], None] | None = None
        """Called when there is something to tell other dispatchers; see `news`."""

    def of(self, account: str) -> int:
        """Say how many of an account's are with nodes, of whichever dispatcher."""
        return self._here[account] + sum(counts.get(account, 0) for counts in self._elsewhere.values())

    def is_full(self, account: str) -> bool:
        """Say whether no more may be offered for an account."""
        most = self._most_of(account)
        return most is not None and self.of(account) >= most

    def began(self, account: str) -> None:
        """Note that a task is on its way to a node."""
        self._here[account] += 1
        self._tell(account)

    def ended(self, account: str) -> None:
        """Note that a node holds a task no more, or did not get it."""
        was_full = self.is_full(account)
        self._here[account] -= 1
        if not self._here[account]:
            del self._here[account]
        self._tell(account)
        if was_full and not self.is_full(account):
            self.has_room(account)

    def limits_changed(self, accounts: Iterable[str]) -> None:
        """Let those of these accounts go on that have room by now."""
        accounts = list(accounts)
        for account in accounts:
            self._tell(account)
        self._let_go_on(accounts)

    def tell_all(self) -> None:
        """Let a dispatcher that has just come know."""
        for account in self._here:
            self._tell(account)

    def news(self) -> dict[str, int]:
        """Give what other dispatchers have not been told yet: how many of some accounts' are with nodes here."""
        untold, self._untold = self._untold, set()
        return {account: self._here[account] for account in untold}

    def heard(self, dispatcher: str, counts: Mapping[str, int]) -> None:
        """Take in what another dispatcher tells."""
        known = self._elsewhere.setdefault(dispatcher, {})
        for account, count in counts.items():
            if count:
                known[account] = count
            else:
                known.pop(account, None)
        self._let_go_on(counts)

    def gone(self, dispatcher: str) -> None:
        """Forget a dispatcher. Whoever takes over what its nodes hold counts it."""
        self._let_go_on(self._elsewhere.pop(dispatcher, {}))

    def _tell(self, account: str) -> None:
        if self.changed is not None and self._most_of(account) is not None:
            self._untold.add(account)
            self.changed()

    def _let_go_on(self, accounts: Iterable[str]) -> None:
        for account in accounts:
            if not self.is_full(account):
                self.has_room(account)
