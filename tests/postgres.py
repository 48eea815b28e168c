"""A PostgreSQL of the test run's own: made, started and stopped by it, on a port and in a directory of its own.

It is made without syncing to disk, unless a test asks for it: what these tests kill is the programs, not the machine.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

from tests.chaos.programs import free_port

SHARED = "TEST_POSTGRES"
"""Variable that tells programs which tests start of the server that the test run shares: its directory and port."""

START_SECONDS = "60"
FAST = ("fsync=off", "full_page_writes=off", "synchronous_commit=off")


class Cluster:
    """One server with its data.

    Args:
        settings: ``name=value`` of its configuration.
    """

    def __init__(self, directory: Path, *settings: str, port: int = 0) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.port = port or free_port()
        self._settings = settings

    def create(self) -> None:
        """Make its data directory."""
        self._run("initdb", "--pgdata", self.data, "--no-sync", "--auth=trust", "--username=fernd", "--encoding=UTF8")

    def copy_of(self, primary: Cluster) -> None:
        """Make its data directory as a standby that follows another cluster."""
        url = f"host=127.0.0.1 port={primary.port} user=fernd application_name=standby"
        self._run("pg_basebackup", "--pgdata", self.data, "--dbname", url, "--write-recovery-conf", "--checkpoint=fast")

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.directory),
        }
        options |= dict(setting.split("=", 1) for setting in self._settings)
        words = " ".join(f"-c {name}='{value}'" for name, value in options.items())
        log = self.directory / "log"
        self._run("pg_ctl", "start", "--pgdata", self.data, "--log", log, "-t", START_SECONDS, "--options", words)

    def stop(self, mode: str = "fast") -> None:
        """Stop the server, if it runs; ``immediate`` as in a crash."""
        if (self.data / "postmaster.pid").exists():
            self._run("pg_ctl", "stop", "--pgdata", self.data, "-m", mode, "-t", START_SECONDS)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server's first process."""
        os.kill(int((self.data / "postmaster.pid").read_text().split()[0]), number)

    def promote(self) -> None:
        """Make a standby the primary, and wait until it is."""
        self._run("pg_ctl", "promote", "--pgdata", self.data, "-t", START_SECONDS)

    def database(self, name: str) -> str:
        """Make a database, and give its URL."""
        self.sql(f"CREATE DATABASE {name}")
        return self.url(name)

    def schema(self, name: str) -> str:
        """Make a schema that is as good as a database of its own, unless it is there, and give its URL."""
        self.sql(f"CREATE SCHEMA IF NOT EXISTS {name}")
        return f"{self.url('postgres')}?search_path={name}"

    def url(self, name: str = "postgres") -> str:
        """Give the URL of a database."""
        return f"postgresql://fernd@127.0.0.1:{self.port}/{name}"

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run a statement and give what it prints."""
        arguments = ["psql", "-XAtq", "-h", str(self.directory), "-p", str(self.port), "-U", "fernd", database]
        return subprocess.run([program(arguments[0]), *arguments[1:], "-c", statement], check=True, capture_output=True,
                              text=True).stdout.strip()  # fmt: skip

    def _run(self, name: str, *arguments: str | Path) -> None:
        user = owner()
        said = self.directory / "tools"
        # Into a file: a pipe would stay open for as long as the server runs.
        with said.open("ab") as output:
            done = subprocess.run(
                [program(name), *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                user=user,
                group=None if user is None else pwd.getpwnam(user).pw_gid,
                extra_groups=None if user is None else [],
                cwd=self.directory,
                check=False,
            )
        if done.returncode:
            raise RuntimeError(f"{name}: {said.read_text()[-2000:]}")


@cache
def shared() -> Cluster:
    """Give the server that all tests of this run share; it is started for the first that asks, and stopped at exit."""
    if SHARED in os.environ:
        where, port = os.environ[SHARED].rsplit(":", 1)
        return Cluster(Path(where), port=int(port))
    stack = ExitStack()
    cluster = stack.enter_context(running(*FAST, "max_connections=200"))
    atexit.register(stack.close)
    os.environ[SHARED] = f"{cluster.directory}:{cluster.port}"
    return cluster


def name_of(directory: Path) -> str:
    """Give the name of the schema that stands for a directory."""
    return "d" + hashlib.sha256(str(directory).encode()).hexdigest()[:24]


def owner() -> str | None:
    """Give the user to run a server as: it does not run as root."""
    return "nobody" if os.geteuid() == 0 else None


def program(name: str) -> str:
    """Find a program of PostgreSQL: Debian keeps those of each version in a directory of its own."""
    found = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))]
    path = found[-1] if found else shutil.which(name)
    if path is None:
        raise FileNotFoundError(f"{name} is not there: deploy/ensure-test-tools.sh installs PostgreSQL")
    return path


@contextmanager
def directory() -> Iterator[Path]:
    """Make a directory that the server's user can use; the path of a socket in it is short enough."""
    made = Path(tempfile.mkdtemp(prefix="pg-"))
    user = owner()
    if user is not None:
        shutil.chown(made, user)
    try:
        yield made
    finally:
        shutil.rmtree(made)


@contextmanager
def running(*settings: str) -> Iterator[Cluster]:
    """Give a server that runs while the context lasts."""
    with directory() as made:
        cluster = Cluster(made, *settings)
        cluster.create()
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop("immediate")
