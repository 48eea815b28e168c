"""What dispatchers tell each other. All of it only makes the other look sooner, or shows it something for eyes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from dispatcher.events import Event
from dispatcher.needs import Lack
from dispatcher.store.records import State


class Waits(Struct, frozen=True, array_like=True, tag="waits"):
    """So many more tasks wait than before, or fewer, by the key of their revision."""

    changes: dict[str, int]


class Runs(Struct, frozen=True, array_like=True, tag="runs"):
    """So many tasks of accounts are with nodes here."""

    counts: dict[str, int]


class Lacks(Struct, frozen=True, array_like=True, tag="lacks"):
    """Why no node here could ever run a revision that waits, by its key; None where one could."""

    lacks: dict[str, Lack | None]


class Moved(Struct, frozen=True, array_like=True, tag="moved"):
    """A node that had its session there has it here now."""

    node: str


class Removed(Struct, frozen=True, array_like=True, tag="removed"):
    """A node was removed by its owner."""

    node: str


class Joined(Struct, frozen=True, array_like=True, tag="joined"):
    """A node has a new credential, by its join at this time."""

    node: str
    joined_ms: int


class Ended(Struct, frozen=True, array_like=True, tag="ended"):
    """A task was ended by its owner."""

    task: str
    state: State
    status: int
    error: str | None


class Watch(Struct, frozen=True, array_like=True, tag="watch"):
    """Somebody here watches tasks, or waits for them."""

    tasks: list[str]


class Unwatch(Struct, frozen=True, array_like=True, tag="unwatch"):
    """Nobody here watches these tasks any more."""

    tasks: list[str]


class Happened(Struct, frozen=True, array_like=True, tag="happened"):
    """Events of a task, with their ids there."""

    task: str
    events: list[Event]


class Follows(Struct, frozen=True, array_like=True, tag="follows"):
    """Whether somebody here follows whole accounts."""

    follows: bool


class Changed(Struct, frozen=True, array_like=True, tag="changed"):
    """What changed, for those who follow whole accounts: tasks, nodes, and accounts that have other nodes."""

    tasks: list[str]
    nodes: list[tuple[str, str]]
    accounts: list[str]


Message = Waits | Runs | Lacks | Moved | Removed | Joined | Ended | Watch | Unwatch | Happened | Follows | Changed


class Letter(Struct, frozen=True, array_like=True):
    """Messages of one dispatcher, in their order."""

    sender: str
    messages: list[Message]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Letter)


def encode(sender: str, messages: Sequence[Message]) -> bytes:
    """Make a letter."""
    return _encoder.encode(Letter(sender, list(messages)))


def decode(content: bytes) -> Letter | None:
    """Read a letter; None where another version wrote what this one does not know."""
    try:
        return _decoder.decode(content)
    except msgspec.ValidationError:
        return None
