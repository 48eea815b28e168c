"""Whether this node takes work now, and why not.

Availability is not liveness: a node that drains, or whose engine does not answer, stays connected
and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import structlog

Part = Literal["draining", "removed", "journal", "engine", "owner"]
"""What can stand in the way; the first of these that does is the reason that people see."""

_ORDER: tuple[Part, ...] = ("draining", "removed", "journal", "engine", "owner")


class Availability:
    """What stands in the way of new work, by part.

    Args:
        at_first: What stands in the way from the start.
        changed: Called when the answer changes, so that the dispatcher hears of it at once.
    """

    def __init__(self, at_first: Mapping[Part, str], changed: Callable[[], None]) -> None:
        self._changed = changed
        self._blocked = dict(at_first)
        self._log = structlog.get_logger()

    @property
    def available(self) -> bool:
        """The node takes work."""
        return not self._blocked

    @property
    def reason(self) -> str:
        """Why the node takes no work; empty if it does."""
        return next((self._blocked[part] for part in _ORDER if part in self._blocked), "")

    def block(self, part: Part, reason: str) -> None:
        """Take no work until `clear`."""
        self._change(part, reason)

    def clear(self, part: Part) -> None:
        """Say that a part does not stand in the way any more."""
        self._change(part, None)

    def _change(self, part: Part, reason: str | None) -> None:
        before = self.reason
        if reason is None:
            self._blocked.pop(part, None)
        else:
            self._blocked[part] = reason
        if self.reason == before:
            return
        if self.reason:
            self._log.warning("takes no work", reason=self.reason)
        else:
            self._log.info("takes work")
        self._changed()
