"""The two programs as services: what a service manager hears of them, over a socket of the test's own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos.programs import Agent, Dispatcher

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]

SECONDS = 30.0
WATCHDOG_SECONDS = 2.0

Said = dict[str, str]


class Manager:
    """The manager's side of the notification socket."""

    def __init__(self, path: Path) -> None:
        self.environ = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": str(int(WATCHDOG_SECONDS * 1e6))}
        self.heard: list[Said] = []
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._line.bind(str(path))
        self._line.setblocking(False)

    async def hears(self, name: str, value: str, seconds: float = SECONDS) -> Said:
        """Wait for a line."""
        async with asyncio.timeout(seconds):
            while True:
                text = (await asyncio.get_running_loop().sock_recv(self._line, 65536)).decode()
                said = dict(line.split("=", 1) for line in text.splitlines())
                self.heard.append(said)
                if said.get(name, "").startswith(value):
                    return said

    def forget(self) -> None:
        """Drop what was said and not heard yet."""
        while True:
            try:
                self._line.recv(65536)
            except BlockingIOError:
                return

    def close(self) -> None:
        self._line.close()


@pytest.fixture
async def dispatcher(tmp_path: Path) -> AsyncIterator[tuple[Dispatcher, Manager]]:
    manager = Manager(tmp_path / "dispatcher.notify")
    program = Dispatcher(tmp_path, manager.environ)
    await program.start()
    yield program, manager
    await program.close()
    manager.close()


async def test_a_dispatcher(dispatcher: tuple[Dispatcher, Manager], tmp_path: Path) -> None:
    """READY when it listens; alive; settings are read again on SIGHUP; nothing while it stands still; STOPPING."""
    program, manager = dispatcher
    ready = await manager.hears("READY", "1")
    assert ready["STATUS"] == f"listening on {program.url}: 0 nodes connected, 0 tasks wait"
    await manager.hears("WATCHDOG", "1")

    program.signal(signal.SIGHUP)
    assert "MONOTONIC_USEC" in await manager.hears("RELOADING", "1")
    await manager.hears("READY", "1")

    program.signal(signal.SIGSTOP)
    manager.forget()
    with pytest.raises(TimeoutError):
        await manager.hears("WATCHDOG", "1", WATCHDOG_SECONDS)
    program.signal(signal.SIGCONT)
    await manager.hears("WATCHDOG", "1")

    program.signal(signal.SIGTERM)
    await manager.hears("STOPPING", "1")
    await manager.hears("EXTEND_TIMEOUT_USEC", "25000000")
    assert await program.ended() == 0


async def test_an_agent(dispatcher: tuple[Dispatcher, Manager], tmp_path: Path) -> None:
    """READY only when it has a session and its engine answers; the time of its drain is asked for when it stops."""
    program, _ = dispatcher
    manager = Manager(tmp_path / "agent.notify")
    agent = Agent("agent", tmp_path, manager.environ)
    try:
        await agent.join(program.url, await join_token(program))
        await program.stop()
        await agent.start()
        await manager.hears("EXTEND_TIMEOUT_USEC", "90000000")
        await manager.hears("STATUS", "ready: 0 tasks run, no session with")
        assert not any("READY" in said for said in manager.heard)

        await program.start()
        ready = await manager.hears("READY", "1", 90)
        assert ready["STATUS"] == f"ready: 0 tasks run, connected to {program.url}"
        await manager.hears("WATCHDOG", "1")

        agent.signal(signal.SIGTERM)
        await manager.hears("STOPPING", "1")
        # Delivery, since nothing runs; what aborted work may take, the last words, and the removal of containers.
        await manager.hears("EXTEND_TIMEOUT_USEC", str((30 + 30 + 10 + 5 + 60) * 1_000_000))
        assert await agent.ended() == 0
    finally:
        await agent.close()
        manager.close()


async def test_a_machine_that_joins_by_itself(dispatcher: tuple[Dispatcher, Manager], tmp_path: Path) -> None:
    """With a join token as a credential an agent joins when it starts, and is ready."""
    program, _ = dispatcher
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "node.join_token").write_text(await join_token(program) + "\n")
    manager = Manager(tmp_path / "agent.notify")
    environ = {"CREDENTIALS_DIRECTORY": str(secrets), "FERND_DISPATCHER_URLS": program.url}
    agent = Agent("agent", tmp_path, manager.environ | environ)
    try:
        await agent.start()
        await manager.hears("READY", "1")
        assert (agent.directory / "node.json").exists()
        assert await agent.stop() == 0
    finally:
        await agent.close()
        manager.close()


async def join_token(dispatcher: Dispatcher) -> str:
    """Have a join token made."""
    environ = os.environ | {"FERND_URL": dispatcher.url, "FERND_TOKEN": dispatcher.token}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent.cli", "node", "join-token", stdout=asyncio.subprocess.PIPE, env=environ
    )
    assert process.stdout is not None
    async with asyncio.timeout(SECONDS):
        return (await process.stdout.read()).decode().split()[0]
