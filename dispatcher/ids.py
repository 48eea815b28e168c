"""Ids of functions and tasks: 24 lowercase hex characters in ObjectId layout, which sort by time.

Four bytes of seconds, five random bytes that are the same for the life of the process, and a
counter of three bytes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from secrets import token_bytes

_COUNTER_END = 1 << 24
_OBJECT_ID = re.compile(r"[0-9a-f]{24}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Ids:
    """Makes ids, each greater than all that it made before, also when the clock goes back."""

    def __init__(
        self, wall: Callable[[], float] = time.time, random_bytes: Callable[[int], bytes] = token_bytes
    ) -> None:
        self._wall = wall
        self._process = random_bytes(5).hex()
        self._seconds = 0
        self._counter = int.from_bytes(random_bytes(3))

    def new(self) -> str:
        """Make an id."""
        seconds = max(int(self._wall()), self._seconds)
        self._counter += 1
        if self._counter == _COUNTER_END:
            self._counter = 0
            # Counting starts again, so time must have moved on, were it by a second of our own.
            seconds = max(seconds, self._seconds + 1)
        self._seconds = seconds
        return f"{seconds & 0xFFFFFFFF:08x}{self._process}{self._counter:06x}"


def is_object_id(text: str) -> bool:
    """Say whether a text has the shape of a function's or a task's id."""
    return _OBJECT_ID.fullmatch(text) is not None


def is_node_id(text: str) -> bool:
    """Say whether a text has the shape of a node's id: a UUID in lower case."""
    return _UUID.fullmatch(text) is not None
