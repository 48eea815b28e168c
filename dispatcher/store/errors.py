"""Why a store does not do what it is asked."""

from __future__ import annotations


class StoreUnavailable(Exception):
    """The database does not answer, or cannot write. Nothing was changed, or nothing is known of it."""


class BodyMissing(Exception):
    """A body key names no body: it was not written, or went away with its task."""


class KeyReused(Exception):
    """The idempotency key was used for something else."""


class NodeTaken(Exception):
    """The node id belongs to another account."""


class NodeDisabled(Exception):
    """The node was removed; its owner must restore it first."""


class UploadOvertaken(Exception):
    """An upload holds other bytes than its caller believed."""


class NameTaken(Exception):
    """There is a function of that name in the account already, or an account of that name."""


class LastToken(Exception):
    """Nobody could administer any more without this token."""
