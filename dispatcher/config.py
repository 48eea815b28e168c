"""The dispatcher's settings. `agent.settings` makes them from files, environment and flags."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct, field

from agent.logs import LogConfig
from agent.settings import host_and_port

KIB = 1024
MIB = 1024 * 1024

Seconds = Annotated[float, Meta(gt=0, le=86_400)]


class ServerConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The section ``server``: where the dispatcher listens and keeps its files.

    Attributes:
        listen: ``HOST:PORT``; port 0 picks a free one.
        data_dir: Directory of ``api-token`` and of the embedded database. Where it is not set: the one that
            systemd gives, else ``$XDG_STATE_HOME/fernd``.
        connections: Connections at a time, sessions of nodes among them. One more is answered 503.
        keep_alive: Seconds that a connection may be idle, or take to send the head of a request.
        read_timeout: Seconds that a body may stand still while it is read, or while a caller reads it.
        read_rate: Bytes a second with which a body must come at least, on the average, once ``read_timeout`` is over.
        stop_grace: Seconds that requests under way have to end when the dispatcher stops.
    """

    listen: str = "127.0.0.1:7070"
    data_dir: Path | None = None
    connections: Annotated[int, Meta(ge=1, le=1_000_000)] = 12_000
    keep_alive: Seconds = 75
    read_timeout: Seconds = 30
    read_rate: Annotated[int, Meta(ge=1, le=1_000_000_000)] = 500
    stop_grace: Annotated[float, Meta(ge=0, le=3_600)] = 5

    def __post_init__(self) -> None:
        host_and_port(self.listen)

    @property
    def host(self) -> str:
        """The host to listen on, without the brackets of an IPv6 address."""
        return host_and_port(self.listen)[0]

    @property
    def port(self) -> int:
        """The port to listen on."""
        return host_and_port(self.listen)[1]


class StoreConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The section ``store``: where tasks are kept.

    Attributes:
        database: ``sqlite:///`` and the path of a file, or ``postgresql://[USER[:PASSWORD]@]HOST[:PORT][,…]/NAME``,
            which any number of dispatchers may share. Empty: ``dispatcher.sqlite`` in the data directory.
        pool: Connections to PostgreSQL that are open at most, of each dispatcher.
        retention: Seconds that a finished task is kept, with its input, result and log.
    """

    database: str = ""
    pool: Annotated[int, Meta(ge=4, le=1000)] = 12
    retention: Annotated[float, Meta(gt=0)] = 7 * 86_400


class LimitsConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The section ``limits``: how much of anything is taken.

    Attributes:
        body: Bytes of a task's input.
        result: Bytes of a task's result.
        query: Bytes of a request's query string.
        headers: Bytes of all header lines of a request together.
        queue_length: Tasks that may wait. One more is answered `QUEUE_FULL`.
    """

    body: Annotated[int, Meta(ge=0, le=1024 * MIB)] = 8 * MIB
    result: Annotated[int, Meta(ge=0, le=1024 * MIB)] = 32 * MIB
    query: Annotated[int, Meta(ge=0, le=64 * KIB)] = 8 * KIB
    headers: Annotated[int, Meta(ge=1 * KIB, le=256 * KIB)] = 32 * KIB
    queue_length: Annotated[int, Meta(ge=1, le=100_000_000)] = 100_000


class QuotasConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The section ``quotas``: what an account may have that has no limit of its own; see `fernd account set`.

    Attributes:
        queue_length: Tasks of it that may wait. One more is answered `QUEUE_FULL`.
        running: Tasks of it that may be with nodes at a time. Others wait.
        timeout: Seconds that its functions may ask for.
        cpu_count: CPUs that its functions may ask for.
        mem_size: MiB that its functions may ask for.
        privileged: Its functions may ask to be privileged.
    """

    queue_length: Annotated[int, Meta(ge=1, le=100_000_000)] | None = None
    running: Annotated[int, Meta(ge=1, le=100_000_000)] | None = None
    timeout: Annotated[int, Meta(ge=1, le=900)] | None = None
    cpu_count: Annotated[float, Meta(ge=1, le=64)] | None = None
    mem_size: Annotated[int, Meta(ge=256, le=16 * 1024 * 1024)] | None = None
    privileged: bool = True


class QueueConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The section ``queue``: how long tasks wait.

    Attributes:
        wait: Seconds that a task waits while no node could ever run it; then it ends with `NO_CAPABLE_NODE`.
    """

    wait: Seconds = 300


class AccessConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The section ``access``: browsers that log in, and the record of who changed what.

    Attributes:
        session: Seconds after which a browser must log in again.
        behind_proxy: Every request comes by a reverse proxy that sets ``X-Forwarded-Proto`` and adds to
            ``X-Forwarded-For``; they are believed. Without it they are not, for anybody could write them.
        audit_retention: Seconds that the record of a change is kept.
    """

    session: Annotated[float, Meta(ge=60, le=30 * 86_400)] = 12 * 3_600
    behind_proxy: bool = False
    audit_retention: Annotated[float, Meta(gt=0)] = 365 * 86_400


class OtelConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The section ``otel``: spans of tasks and their phases, for whoever traces calls. Needs ``fernd[otel]``.

    Attributes:
        endpoint: Base address of a collector that takes OTLP over HTTP, such as ``http://127.0.0.1:4318``; empty: none.
    """

    endpoint: Annotated[str, Meta(pattern=r"^(https?://[^\s]+)?$", max_length=500)] = ""


class DispatcherConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Every setting of the dispatcher, by section."""

    server: ServerConfig = field(default_factory=ServerConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    quotas: QuotasConfig = field(default_factory=QuotasConfig)
    queue: QueueConfig = field(default_factory=QueueConfig)
    access: AccessConfig = field(default_factory=AccessConfig)
    otel: OtelConfig = field(default_factory=OtelConfig)
    log: LogConfig = field(default_factory=LogConfig)
