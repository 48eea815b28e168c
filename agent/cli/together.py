"""Dispatcher and agent as two child processes: started, watched and stopped in order.

Up: the dispatcher, and when it answers, the agent, which joins on the first start. Down: the agent,
which finishes its work and delivers the outcomes, and then the dispatcher that takes them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import click

from agent import identity, join
from agent.cli.agent_settings import NotSetUp
from agent.cli.client import Client
from agent.cli.errors import EXIT_USAGE, Failed, Refused, Unreachable
from agent.cli.profile import Endpoint, check_token
from agent.cli.render import plain

POLL_SECONDS = 0.1

READY_SECONDS = 60.0
"""A dispatcher that does not answer within so long of its start never will."""

PATIENCE_SECONDS = 3.0
"""A node that does not take work within so long of its start has a reason that people should know."""

JOIN_TOKEN_SECONDS = 60
"""How long the agent's join token is good."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Child:
    """A command of ours in a process of its own."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self._process = process

    @classmethod
    async def start(cls, name: str, *arguments: str, lock: int, settings: dict[str, str]) -> Child:
        """Start ``fernd NAME``.

        It has its own session, so that Ctrl-C at the terminal reaches only us. Its stdin is a pipe,
        which tells it when we are gone: see `agent.cli.kept`.

        Args:
            lock: Descriptor that it keeps open.
            settings: Variables that it gets beside ours.
        """
        # -P: a directory named agent where the user happens to be is not our package.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "agent.cli.kept", name, *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=sys.stderr,
            env=os.environ | settings,
            pass_fds=(lock,),
            start_new_session=True,
        )
        return cls(name, process)

    async def end(self) -> int:
        """Wait until it ends, and give its exit code, or minus the number of the signal that ended it."""
        return await self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it has not ended."""
        if self._process.returncode is None:
            self._process.send_signal(number)


class Together:
    """One life of ``fernd up``."""

    def __init__(self, directory: Path, listen: str, address: str, lock: int) -> None:
        """Prepare to run.

        Args:
            directory: Where everything is kept.
            listen: Host and port of the dispatcher.
            address: URL at which it is reached from here.
            lock: Descriptor that the children keep open.
        """
        self._directory = directory
        self._listen = listen
        self._address = address
        self._lock = lock
        self._token_file = directory / "api-token"
        self._agent_directory = directory / "agent"
        self._children: list[Child] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._ending: Child | None = None
        self._pressed = 0
        self._over: asyncio.Future[None]

    async def run(self) -> None:
        """Run until a signal comes.

        Raises:
            Failed: A child ended by itself, or could not do its part.
        """
        loop = asyncio.get_running_loop()
        self._over = loop.create_future()
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup asks for
                loop.add_signal_handler(number, self._on_signal)
        self._side_task(asyncio.create_task(self._begin(), name="begin"))
        try:
            await self._over
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
            await self._stop()

    # up

    async def _begin(self) -> None:
        await self._start("dispatcher", "--data-dir", str(self._directory), "--listen", self._listen)
        try:
            async with asyncio.timeout(READY_SECONDS):
                endpoint = await self._answering()
        except TimeoutError:
            raise Failed(f"the dispatcher did not answer at {self._address} within {READY_SECONDS:g} s") from None
        async with Client(endpoint) as client:
            node = await self._joined(client)
            # The address can be another than the one that the node joined.
            urls = {"FERND_DISPATCHER_URLS": self._address}
            await self._start("agent", "--data-dir", str(self._agent_directory), settings=urls)
            await self._available(client, node)
        click.echo(f"fernd is ready at {self._address} with the token in {self._token_file}")

    async def _start(self, name: str, *arguments: str, settings: dict[str, str] | None = None) -> None:
        child = await Child.start(name, *arguments, lock=self._lock, settings=settings or {})
        self._children.append(child)
        self._side_task(asyncio.create_task(self._watch(child), name=f"watch {name}"))

    async def _answering(self) -> Endpoint:
        """Wait until the dispatcher answers: its store is open, and it is ours, since it knows our token."""
        while True:
            try:
                endpoint = Endpoint(self._address, check_token(self._token_file.read_text(encoding="utf-8")))
                async with Client(endpoint) as client:
                    await client.call("GET", "node", "list", query={"limit": 1})
            except (FileNotFoundError, Unreachable):
                await asyncio.sleep(POLL_SECONDS)
            except Refused as refused:
                if refused.status != 503:
                    raise Failed(
                        f"what answers at {self._address} refuses the token in {self._token_file}: {refused.message}"
                    ) from None
                await asyncio.sleep(POLL_SECONDS)
            else:
                return endpoint

    async def _joined(self, client: Client) -> str:
        """Give the node's id; on the first start the node joins."""
        try:
            known = identity.load_identity(self._agent_directory)
            if known is None:
                made = await client.call("POST", "node", "join-token", content={"expiresIn": JOIN_TOKEN_SECONDS})
                known = await join.join([self._address], made["token"], self._agent_directory, "")
        except (identity.IdentityError, join.Unreachable, join.Refused) as error:
            raise Failed(f"the node cannot join: {error}") from None
        return known.id

    async def _available(self, client: Client, node: str) -> None:
        """Wait until the node takes work, and say what keeps it from that, if it lasts."""
        clock = asyncio.get_running_loop().time
        said, since = "", clock()
        while not (found := await client.call("GET", "node", node))["available"]:
            if clock() - since > PATIENCE_SECONDS and found["reason"] != said:
                said = found["reason"]
                click.echo(f"the node does not take work yet: {plain(said)}", err=True)
            await asyncio.sleep(POLL_SECONDS)

    # down

    async def _watch(self, child: Child) -> None:
        code = await child.end()
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        failed = NotSetUp if code == EXIT_USAGE else Failed
        raise failed(f"fernd {child.name} ended by itself ({how}); its last lines above say why")

    def _side_task(self, task: asyncio.Task[None]) -> None:
        """Keep a task whose failure is the end of everything."""
        self._tasks.append(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not self._over.done():
            self._over.set_exception(error)

    def _on_signal(self) -> None:
        """End at the first signal, have the child hurry at the second, kill at the third."""
        if not self._over.done():
            self._over.set_result(None)
            return
        self._pressed += 1
        if self._pressed == 1 and self._ending is not None:
            self._ending.signal(signal.SIGTERM)
        elif self._pressed > 1:
            for child in self._children:
                child.signal(signal.SIGKILL)

    async def _stop(self) -> None:
        for child in reversed(self._children):
            self._ending = child
            child.signal(signal.SIGTERM)
            await child.end()
