"""``fernd dispatcher``: its settings, its first start, and the process as a whole."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner

from agent.settings import SettingsError
from dispatcher import cli
from dispatcher.auth import token_hash
from dispatcher.config import StoreConfig
from dispatcher.store.access import Account, Scope, Token
from dispatcher.store.postgres import PostgresStore
from dispatcher.store.postgres.address import parse
from dispatcher.store.sqlite import SqliteStore

SECONDS = 20.0


def test_data_dir_is_found_where_nobody_says() -> None:
    """As a service the directory that systemd made, else the state directory of the user."""
    home = Path("/home/u")
    assert cli.default_data_dir({"STATE_DIRECTORY": "/var/lib/fernd:/x"}, home) == Path("/var/lib/fernd")
    assert cli.default_data_dir({"XDG_STATE_HOME": "/state"}, home) == Path("/state/fernd")
    assert cli.default_data_dir({}, home) == Path("/home/u/.local/state/fernd")


def test_database_url_names_a_file() -> None:
    """Three slashes and a file, absolute with a fourth; nothing: beside the token."""
    for database, file in (
        ("", "/d/dispatcher.sqlite"),
        ("sqlite:////a/b.sqlite", "/a/b.sqlite"),
        ("sqlite:///b.sqlite", str(Path.cwd() / "b.sqlite")),
    ):
        store = cli.make_store(StoreConfig(database), Path("/d"))
        assert isinstance(store, SqliteStore)
        assert store._path == Path(file)


def test_database_url_names_hosts() -> None:
    """A URL of PostgreSQL may name several hosts; nothing that shows of it holds its password."""
    store = cli.make_store(StoreConfig("postgresql://u:se%40cret@a,b:6000/d?sslmode=require"), Path("/d"))
    assert isinstance(store, PostgresStore)
    assert str(store._address) == "a:5432, b:6000"
    assert "cret" not in f"{store._address!r} {store._address}"
    assert str(parse("postgresql:///d?host=/run/x,c&port=1,2")) == "/run/x:1, c:2"
    assert str(parse("postgres://[::1]/d")) == "::1:5432"


@pytest.mark.parametrize(
    "database",
    [
        *("sqlite://", "sqlite:///", "sqlite:x", "mysql://h", "x"),
        *("postgresql://u:secret@h:x/d", "postgresql://u:secret@h,/d", "postgresql://h/d?secret", "postgresql://h#x"),
    ],
)
def test_other_databases_are_refused_without_repeating_them(database: str) -> None:
    """The message says which setting it is and what was expected, and shows no password."""
    with pytest.raises(SettingsError, match=r"^store\.database: expected ") as caught:
        cli.make_store(StoreConfig(database), Path("/d"))
    assert "secret" not in str(caught.value)


def test_a_missing_driver_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the error names the setting and what to install."""
    for name in [name for name in sys.modules if name.startswith(("asyncpg", "dispatcher.store.postgres"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Missing("asyncpg"), *sys.meta_path])
    with pytest.raises(SettingsError, match=r"^store\.database: .*fernd\[postgres\]"):
        cli.make_store(StoreConfig("postgresql://h/d"), Path("/d"))


class Missing(MetaPathFinder):
    """A package that is not installed."""

    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == self._name:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def test_all_wrong_settings_are_said_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Exit code 2, each problem on a line of stderr, and nothing was made."""
    monkeypatch.setenv("FERND_LIMITS_BODY", "much")
    monkeypatch.setenv("FERND_QUEUE_WAITT", "1")
    result = CliRunner().invoke(cli.dispatcher, ["--data-dir", str(tmp_path / "d"), "--config", "/dev/null"])
    assert result.exit_code == 2
    assert [line.split(":")[1].strip() for line in result.stderr.splitlines()] == [
        "FERND_LIMITS_BODY",
        "FERND_QUEUE_WAITT",
    ]
    for listen in ("nowhere", "host:99999", "host:", ":x"):
        result = CliRunner().invoke(
            cli.dispatcher, ["--listen", listen], env={"FERND_LIMITS_BODY": "1", "FERND_QUEUE_WAITT": None}
        )
        assert (result.exit_code, "expected HOST:PORT" in result.stderr) == (2, True)
    assert not (tmp_path / "d").exists()


async def test_first_start_is_done_again_when_it_was_cut_short(tmp_path: Path) -> None:
    """Whatever of it had been done, in the end the token in the file is good, and stays."""
    store = SqliteStore(tmp_path / "dispatcher.sqlite")
    await store.open()
    cli.write_secret(tmp_path / "api-token", "of a start that stopped here")
    (tmp_path / "api-token.partial").write_text("of one that stopped even before")
    left = Token("0" * 24, "default", "api-token", frozenset(Scope), 0)
    await store.add_token(left, token_hash("of a start that stopped here"))
    await cli.first_start(store, tmp_path)
    file = tmp_path / "api-token"
    token = file.read_text().strip()
    found = await store.token_of(token_hash(token))
    assert found is not None
    assert (found.account, found.name, found.scopes, found.expires_ms) == (
        "default",
        "api-token",
        frozenset(Scope),
        None,
    )
    account = await store.account("default")
    assert account is not None
    assert account.administers
    assert file.stat().st_mode & 0o777 == 0o600
    await cli.first_start(store, tmp_path)
    assert file.read_text().strip() == token
    assert not (tmp_path / "api-token.partial").exists()
    await store.close()


async def test_store_that_was_set_up_gets_no_second_token(tmp_path: Path) -> None:
    """Where there is an account, nothing is made and nothing is written."""
    store = SqliteStore(tmp_path / "dispatcher.sqlite")
    await store.open()
    await store.add_account(Account("a", "a"))
    await cli.first_start(store, tmp_path)
    assert not (tmp_path / "api-token").exists()
    await store.close()


class Process:
    """``fernd dispatcher`` as a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, *arguments: str) -> Process:
        command = ("-c", "from dispatcher.cli import dispatcher; dispatcher()", *arguments)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("FERND_")}
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, stderr=asyncio.subprocess.PIPE, env=environ
        )
        return cls(process)

    async def address(self) -> str:
        """Wait until it listens."""
        assert self._process.stderr is not None
        async with asyncio.timeout(SECONDS):
            while line := await self._process.stderr.readline():
                entry = json.loads(line)
                if entry["event"] == "listening":
                    return str(entry["address"])
        raise AssertionError("it ended before it listened")

    async def stop(self, number: signal.Signals) -> int:
        self._process.send_signal(number)
        return (await self.end())[0]

    async def end(self) -> tuple[int, str]:
        """Wait for its end; give the exit code and the rest of what it wrote."""
        async with asyncio.timeout(SECONDS):
            _, written = await self._process.communicate()
        return self._process.returncode or 0, written.decode()


async def test_process_serves_stops_and_comes_back(tmp_path: Path) -> None:
    """It picks a port and says which, its token works, both signals end it with 0, and the token outlives it."""
    arguments = ("--data-dir", str(tmp_path / "data"), "--listen", "127.0.0.1:0")
    for number in (signal.SIGTERM, signal.SIGINT):
        process = await Process.start(*arguments)
        url = await process.address()
        token = (tmp_path / "data" / "api-token").read_text().strip()
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{url}/v1/task/list", headers={"Authorization": token}) as response,
        ):
            assert (response.status, await response.json()) == (200, [])
        assert await process.stop(number) == 0


async def test_address_in_use_is_said_in_a_sentence(tmp_path: Path) -> None:
    """Exit code 1 and no traceback."""
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        process = await Process.start("--data-dir", str(tmp_path / "data"), "--listen", f"127.0.0.1:{port}")
        code, written = await process.end()
    assert code == 1
    assert f"error: cannot listen on 127.0.0.1:{port}: Address already in use" in written
    assert "Traceback" not in written
