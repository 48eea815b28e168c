"""The store of any number of dispatchers: one PostgreSQL, which they share."""

from dispatcher.store.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
