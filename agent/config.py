"""The settings of the agent: what an operator can say about this node.

A section is a Struct, and each setting is written as `agent.settings` says: ``[capacity] slots = 4``
in a file, ``FERND_CAPACITY_SLOTS=4`` in the environment.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct, field

from agent.containers.runtimes import Runtimes, read_rules
from agent.logs import LogConfig
from agent.owner.hours import Hours, parse
from agent.settings import host_and_port

Seconds = Annotated[float, Meta(ge=0, le=86_400)]
Secret = Annotated[str, Meta(pattern=r"^[!-~]*$", max_length=1000)]
Url = Annotated[str, Meta(pattern=r"^https?://[^\s]+$", max_length=500)]


class NodeConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The section ``node``: who this node is.

    Attributes:
        data_dir: Directory of the node's identity, journal and spool. Where it is not set: the one that
            systemd gives, else ``$XDG_STATE_HOME/fernd``.
        description: What people see beside the node's id, sent when the node joins; empty: the machine's name.
        join_token: With it, a machine that is no node yet joins the dispatchers of ``[dispatcher] urls`` when the
            agent starts. Best given as a credential.
        credential: In place of the one in the data directory, for whoever keeps secrets elsewhere.
    """

    data_dir: Path | None = None
    description: Annotated[str, Meta(max_length=80)] = ""
    join_token: Secret = ""
    credential: Secret = ""


class DispatcherConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The section ``dispatcher``: where work comes from.

    Attributes:
        urls: Addresses of dispatchers, tried in turn; empty: those that the node joined.
    """

    urls: list[Url] = []


class CapacityConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The section ``capacity``: how much of the machine functions may use.

    Attributes:
        cpu: CPUs. Where it is not set: all that the agent itself may use.
        memory: MiB. Where it is not set: what the agent may use, less a tenth and at most 512 MiB for the machine
            itself.
        slots: Tasks at the same time. Where it is not set: four for each CPU and at least 8.
    """

    cpu: Annotated[float, Meta(gt=0, le=4096)] | None = None
    memory: Annotated[int, Meta(ge=16)] | None = None
    slots: Annotated[int, Meta(ge=1, le=10_000)] | None = None


class AccountsConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The section ``accounts``: for whom this node works, and how much of it one account has at a time.

    Tasks of a dispatcher that does not say whose they are count as those of one account that has no name.

    Attributes:
        allowed: Ids of the accounts whose tasks run here. Where it is not set: all.
        cpu: CPUs that the tasks of one account take up at most. Where it is not set: all; so with the others.
        memory: MiB of memory that they take up at most.
        slots: Tasks of one account at the same time.
    """

    allowed: list[str] | None = None
    cpu: Annotated[float, Meta(gt=0, le=4096)] | None = None
    memory: Annotated[int, Meta(ge=16)] | None = None
    slots: Annotated[int, Meta(ge=1, le=10_000)] | None = None


class ContainersConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The section ``containers``: how functions run.

    Attributes:
        runtime: OCI runtime of the engine, such as ``runsc``; empty: the engine's default.
        runtimes: Functions with another one, by image or by id, such as ``image docker.io/library/* = runc`` or
            ``function 65f0c0ffee0123456789abcd = runsc``. ``*`` stands for any text; the first that fits decides.
        reach: How the agent speaks to a container: ``namespace`` opens the socket in the container's network
            namespace, ``bridge`` uses an internal network, ``attached`` networks of an agent in a container,
            ``published`` a port on 127.0.0.1; ``auto`` takes the first that works.
        allow_internet: Functions that ask for it reach the internet.
        allowed_images: Images that may run; ``*`` stands for any text. A task of another image is declined before
            anything is pulled. Where it is not set: all.
        privileged_images: Images that may run privileged, if the engine can do it; ``*`` stands for any text.
        start_timeout: Seconds from the start of a container until it is ready.
        stop_grace_max: Seconds between the signal to a function and its kill that a function may have at most.
        idle_seconds: Seconds that an idle warm container is kept.
        warm_limit: Idle warm containers that are kept at most; None: as many as the memory for functions allows.
        log_bytes: Bytes that are kept of what a task writes: half from the beginning, half from the end.
    """

    runtime: Annotated[str, Meta(max_length=100)] = ""
    runtimes: Annotated[list[Annotated[str, Meta(max_length=1000)]], Meta(max_length=1000)] = []
    reach: Literal["auto", "namespace", "bridge", "attached", "published"] = "auto"
    allow_internet: bool = False
    allowed_images: list[str] | None = None
    privileged_images: list[str] = []
    start_timeout: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    stop_grace_max: Seconds = 30.0
    idle_seconds: Seconds = 300.0
    warm_limit: Annotated[int, Meta(ge=0, le=10_000)] | None = None
    log_bytes: Annotated[int, Meta(ge=0, le=2 * 1024 * 1024)] = 1024 * 1024

    def __post_init__(self) -> None:
        _ = self.runtimes_read

    @property
    def runtimes_read(self) -> Runtimes:
        """Which function is run by which runtime."""
        return Runtimes(self.runtime, read_rules(self.runtimes))


class ImagesConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The section ``images``: how images get here.

    Attributes:
        pull_timeout: Seconds that the pull of an image may take, with all its tries. A task's own time begins later.
        stall_timeout: Seconds without a word of a pull after which it is given up, and tried again.
        credentials: File with logins to registries, in the form of Docker's config.json. Where it is not set: the
            credential docker-config.json that systemd gives, else the file that `docker login` wrote.
        high_water: Percent of the engine's disk in use from which on images that the agent pulled are removed, those
            unused for longest first.
        low_water: Percent of the disk in use at which that ends.
        exempt: Images that are never removed; ``*`` stands for any text.
    """

    pull_timeout: Annotated[float, Meta(gt=0, le=86_400)] = 600.0
    stall_timeout: Annotated[float, Meta(gt=0, le=3600)] = 60.0
    credentials: Path | None = None
    high_water: Annotated[float, Meta(gt=0, le=100)] = 85.0
    low_water: Annotated[float, Meta(ge=0, le=100)] = 75.0
    exempt: list[str] = []

    def __post_init__(self) -> None:
        """Check what only holds between settings."""
        if self.low_water > self.high_water:
            raise ValueError("low_water: expected at most as much as high_water")


class JournalConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The section ``journal``: what the node keeps until the dispatcher has it.

    Attributes:
        max_bytes: Bytes of leases, outcomes, and bodies that lie as files. Above it no new work is taken; what is
            accepted already is finished and kept all the same.
        max_age: Seconds for which an outcome is offered to the dispatcher before it is dropped. Only the time for
            which the agent runs counts. The default is 7 days.
    """

    max_bytes: Annotated[int, Meta(ge=1024 * 1024)] = 2 * 1024 * 1024 * 1024
    max_age: Annotated[float, Meta(ge=60)] = 604_800.0


Effect: TypeAlias = Literal["decline", "drain", "pause"]
"""What follows when a rule says no. In each case nothing new is taken. ``decline``: what is here goes on. ``drain``:
what has not begun is given back, what runs may finish, and idle containers are removed. ``pause``: what has not begun
is given back, and all containers are frozen."""

Percent = Annotated[float, Meta(ge=0, le=100)]


class AvailabilityConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The section ``availability``: when the machine is the owner's alone. Without settings it always takes work.

    Where a rule says no, ``decline`` takes nothing new, ``drain`` also gives back what has not begun and removes idle
    containers, and ``pause`` also freezes what runs.

    Attributes:
        hours: When work is taken, such as ``mon-fri 18:00-08:00`` or ``sat sun 00:00-24:00``; empty: always.
        time_zone: Of these hours, such as ``Europe/Berlin``; empty: the machine's.
        outside_hours: What follows outside of them.
        mains_power: Take work only on mains power.
        battery_min: Percent that must be left while the machine runs on its battery.
        on_battery: What follows on a battery, or on one that is too low.
        load_max: Percent of all CPUs that others than this node may use.
        under_load: What follows when they use more.
        temperature_max: Degrees Celsius that the CPU may have.
        when_hot: What follows when it is hotter.
        disk_min: MiB that must be free on the disks of the node's data and of the engine.
        when_disk_low: What follows when less is free.
        on_metered: What follows on a network that is paid for by the byte.
        available_when: A command, as a list of words: exit code 0 means that work is taken, and otherwise the first
            line that it prints is the reason.
        available_when_interval: Seconds between two runs of it.
        available_when_timeout: Seconds that it may take; one that takes longer says no.
        when_unavailable: What follows when it says no.
        settle: Seconds for which a rule that said no must be content before work is taken again.
        pause_max: Seconds for which a task may be frozen; then it is given back.
    """

    hours: list[Annotated[str, Meta(min_length=1, max_length=100)]] = []
    time_zone: Annotated[str, Meta(max_length=100)] = ""
    outside_hours: Effect = "decline"
    mains_power: bool = False
    battery_min: Percent | None = None
    on_battery: Effect = "pause"
    load_max: Percent | None = None
    under_load: Effect = "pause"
    temperature_max: Annotated[float, Meta(ge=0, le=200)] | None = None
    when_hot: Effect = "pause"
    disk_min: Annotated[int, Meta(ge=0)] | None = None
    when_disk_low: Effect = "decline"
    on_metered: Literal["ignore", "decline", "drain", "pause"] = "ignore"
    available_when: list[str] = []
    available_when_interval: Annotated[float, Meta(ge=1, le=86_400)] = 30.0
    available_when_timeout: Annotated[float, Meta(gt=0, le=600)] = 10.0
    when_unavailable: Effect = "drain"
    settle: Seconds = 60.0
    pause_max: Seconds = 900.0

    def __post_init__(self) -> None:
        _ = self.hours_read, self.zone

    @property
    def hours_read(self) -> list[Hours]:
        """The hours, as they can be compared."""
        return [parse(text) for text in self.hours]

    @property
    def zone(self) -> zoneinfo.ZoneInfo | None:
        """The time zone; None: the machine's."""
        try:
            return zoneinfo.ZoneInfo(self.time_zone) if self.time_zone else None
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("time_zone: this machine knows no such zone (is tzdata installed?)") from None


class StopConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The section ``stop``: how the agent ends.

    Attributes:
        grace_period: Seconds that running tasks have to finish and be delivered at most, before they are given back.
            The agent waits no longer than they need: each ends by its function's own timeout.
    """

    grace_period: Seconds = 900.0


class MetricsConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The section ``metrics``: where the figures of the node can be read, beside ``fernd agent metrics``.

    Attributes:
        listen: ``HOST:PORT`` where ``GET /metrics`` is answered, without asking who reads; empty: nowhere.
    """

    listen: str = ""

    def __post_init__(self) -> None:
        if self.listen:
            host_and_port(self.listen)


class AgentConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """All settings of the agent, by section."""

    node: NodeConfig = field(default_factory=NodeConfig)
    dispatcher: DispatcherConfig = field(default_factory=DispatcherConfig)
    capacity: CapacityConfig = field(default_factory=CapacityConfig)
    accounts: AccountsConfig = field(default_factory=AccountsConfig)
    containers: ContainersConfig = field(default_factory=ContainersConfig)
    images: ImagesConfig = field(default_factory=ImagesConfig)
    journal: JournalConfig = field(default_factory=JournalConfig)
    availability: AvailabilityConfig = field(default_factory=AvailabilityConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    log: LogConfig = field(default_factory=LogConfig)


def default_data_dir(environ: Mapping[str, str], home: Path) -> Path:
    """Find where the agent keeps its files when nobody says: as a service in the directory that systemd made."""
    if service := environ.get("STATE_DIRECTORY"):
        return Path(service.partition(":")[0])
    state = environ.get("XDG_STATE_HOME")
    return (Path(state) if state else home / ".local" / "state") / "fernd"
