"""``fernd dispatcher``: settings, store, first token, server; and all of it back down again."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from importlib import import_module
from pathlib import Path

import click
import structlog
from aiohttp import web

from agent import heap, logs, settings
from agent.settings import SettingsError
from dispatcher import __version__, auth
from dispatcher.app import build
from dispatcher.config import DispatcherConfig, OtelConfig, StoreConfig
from dispatcher.ids import Ids
from dispatcher.routes.keys import CORE
from dispatcher.server import Runner
from dispatcher.service import supervised
from dispatcher.store.access import Account, Scope, Token
from dispatcher.store.base import Store
from dispatcher.store.errors import NameTaken, StoreUnavailable
from dispatcher.store.sqlite import SqliteStore

EXIT_FAILED = 1
EXIT_USAGE = 2

TOKEN_FILE = "api-token"  # noqa: S105 - the name of the file
DATABASE_FILE = "dispatcher.sqlite"
ACCOUNT = "default"
"""Id and name of the account that owns all that is made with the first token, and that administers."""

BACKLOG = 1024

COLLECT_AFTER = (10_000, 50, 50)
"""Objects after which the garbage collector looks at the youngest, and rounds after which at the older ones.

By Python's own figures a third of the time in which ten thousand nodes come back would go to it: each look at all
objects takes up to a second then, and everybody waits.
"""

log = structlog.get_logger()


@click.command(epilog="Example: fernd dispatcher --data-dir ~/fernd --listen 127.0.0.1:7070")
@click.option(
    "--database",
    metavar="URL",
    help="sqlite:///FILE, by default dispatcher.sqlite in the data directory; or postgresql://HOST/NAME.",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False),
    help="Where the first start writes api-token; by default $XDG_STATE_HOME/fernd.",
)
@click.option(
    "--listen", metavar="HOST:PORT", help="Where to listen; 127.0.0.1:7070 by default, port 0 takes a free one."
)
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"Settings; by default all of {settings.CONFIG_DIR}/*.toml.",
)
def dispatcher(database: str | None, data_dir: str | None, listen: str | None, config: Path | None) -> None:
    """Serve the task API and give tasks to nodes, until SIGTERM or Ctrl-C.

    The first start makes an account and writes its token to the file api-token in the data directory.
    """
    files = [config] if config else settings.default_files()
    flags = {"store.database": database, "server.data_dir": data_dir, "server.listen": listen}

    def read() -> DispatcherConfig:
        return settings.load(DispatcherConfig, files, os.environ, flags)

    try:
        loaded = read()
        directory = (loaded.server.data_dir or default_data_dir(os.environ, Path.home())).absolute()
        store = make_store(loaded.store, directory)
        check_tracing(loaded.otel)
    except SettingsError as error:
        for problem in error.problems:
            click.echo(f"error: {problem}", err=True)
        sys.exit(EXIT_USAGE)
    logs.configure(loaded.log.level, loaded.log.format)
    _allow_many_connections()
    # On SIGABRT, which a watchdog sends, the process says where each of its threads stands.
    faulthandler.enable()
    gc.set_threshold(*COLLECT_AFTER)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        asyncio.run(serve(loaded, store, directory, read))
    except (StoreUnavailable, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_FAILED)
    except Exception:
        log.exception("dispatcher failed")
        sys.exit(EXIT_FAILED)


def default_data_dir(environ: Mapping[str, str], home: Path) -> Path:
    """Find the data directory when nobody says: as a service the one that systemd made."""
    if service := environ.get("STATE_DIRECTORY"):
        return Path(service.partition(":")[0])
    state = environ.get("XDG_STATE_HOME")
    return (Path(state) if state else home / ".local" / "state") / "fernd"


def make_store(config: StoreConfig, directory: Path) -> Store:
    """Make the store that a database URL names; without a URL, a file in the data directory.

    Raises:
        SettingsError: It names none, or what it needs is not installed. A URL may hold a password: it is not repeated.
    """
    scheme, _, path = config.database.partition(":///")
    if not config.database:
        return SqliteStore(directory / DATABASE_FILE)
    if scheme == "sqlite" and path:
        return SqliteStore(Path(path).expanduser().absolute())
    if scheme.partition(":")[0] not in {"postgresql", "postgres"}:
        raise SettingsError(["store.database: expected sqlite:///FILE or postgresql://HOST/NAME"])
    try:
        # Here, for the driver is an extra, and costs memory that a dispatcher on SQLite has no use for.
        from dispatcher.store.postgres import PostgresStore  # noqa: PLC0415
        from dispatcher.store.postgres.address import parse  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name != "asyncpg":
            raise
        raise SettingsError(
            ["store.database: PostgreSQL needs asyncpg, which is not installed: pip install 'fernd[postgres]'"]
        ) from None
    try:
        return PostgresStore(parse(config.database), pool=config.pool)
    except ValueError as error:
        raise SettingsError([f"store.database: expected postgresql://[USER@]HOST[:PORT][,…]/NAME: {error}"]) from None


def check_tracing(config: OtelConfig) -> None:
    """Return where spans can be exported as far as that is wanted.

    Raises:
        SettingsError: What it needs is not installed.
    """
    if not config.endpoint:
        return
    try:
        import_module("dispatcher.spans")
    except ModuleNotFoundError:
        raise SettingsError(
            ["otel.endpoint: needs opentelemetry-proto, which is not installed: pip install 'fernd[otel]'"]
        ) from None


async def serve(
    config: DispatcherConfig, store: Store, directory: Path, read_again: Callable[[], DispatcherConfig]
) -> None:
    """Run a dispatcher until a signal comes.

    Args:
        read_again: Reads the settings anew, for a reload.

    Raises:
        OSError: The address cannot be listened on, or the token cannot be written.
        StoreUnavailable: The database cannot be used.
    """
    async with contextlib.AsyncExitStack() as stack:
        await store.open()
        stack.push_async_callback(store.close)
        await first_start(store, directory)
        app = build(config, store)
        url = await stack.enter_async_context(listening(app, config))
        heap.settle()
        async with supervised(app[CORE], url, config, read_again):
            await _stopped(app)
        log.info("stopping")
    log.info("stopped")


async def first_start(store: Store, directory: Path, wall: Callable[[], float] = time.time) -> None:
    """Make the account and its token, where the store has none.

    The account comes last: a start that is cut short before is done again, with another token.
    """
    if await store.has_accounts():
        return
    secret, now_ms = auth.new_token(), int(wall() * 1000)
    write_secret(directory / TOKEN_FILE, secret)
    token = Token(Ids(wall).new(), ACCOUNT, TOKEN_FILE, frozenset(Scope), now_ms)
    await store.add_token(token, auth.token_hash(secret))
    # Where another dispatcher on the same database starts for the first time, too, both tokens are good.
    with contextlib.suppress(NameTaken):
        await store.add_account(Account(ACCOUNT, ACCOUNT, administers=True, created_ms=now_ms))
    log.info("account made, its token was written", file=str(directory / TOKEN_FILE))


def write_secret(file: Path, secret: str) -> None:
    """Write a file that its owner alone can read. It is there whole, or not at all."""
    partial = file.with_name(f"{file.name}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as target:
        target.write(f"{secret}\n")
        target.flush()
        os.fsync(descriptor)
    partial.replace(file)


@contextlib.asynccontextmanager
async def listening(app: web.Application, config: DispatcherConfig) -> AsyncIterator[str]:
    """Serve an application while the context lasts, and give its URL."""
    runner = Runner(app, config)
    await runner.setup()
    try:
        site = web.TCPSite(runner, config.server.host or None, config.server.port, backlog=BACKLOG)
        try:
            await site.start()
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise OSError(f"cannot listen on {config.server.listen}: {reason}") from None
        host, port = runner.addresses[0][:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        log.info("listening", address=url, version=__version__)
        yield url
    finally:
        await runner.cleanup()


async def _stopped(app: web.Application) -> None:
    """Wait for the first signal; a second one ends the process at once. Raises what ended the core, if it ends."""
    loop = asyncio.get_running_loop()
    signalled = asyncio.Event()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, signalled.set)
    core = asyncio.create_task(app[CORE].ended())
    waiting = asyncio.create_task(signalled.wait())
    await asyncio.wait({core, waiting}, return_when=asyncio.FIRST_COMPLETED)
    for number in signals:
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)
    waiting.cancel()
    if core.done():
        core.result()
    core.cancel()


def _allow_many_connections() -> None:
    """Use as many file descriptors as the system lets us: each node has a connection."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Some systems name a hard limit that is higher than they allow.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
