"""The store of a dispatcher that stands alone: one SQLite file beside it."""

from dispatcher.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
