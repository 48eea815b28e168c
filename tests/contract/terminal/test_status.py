"""`fernd agent status` on a terminal, of a real node whose functions the test plays."""

from __future__ import annotations

from pathlib import Path

from agent import control
from agent.protocol import Offer
from tests.contract.dispatcher_side import Dispatcher
from tests.contract.node_side import REVISION, StartNode, lease, ready
from tests.contract.terminal.pseudo import Terminal


async def test_what_runs_is_watched(dispatcher: Dispatcher, start: StartNode, tmp_path: Path) -> None:
    """Phase, availability, permits, each task with its bar, and each control loop, drawn in place."""
    running = start()
    async with control.serving(tmp_path, running.node):
        session = await ready(dispatcher)
        await session.send(Offer(1, lease(1), REVISION))
        function = await running.function()
        function.report.phase("pulling")
        function.report.pulled(10 * 1024 * 1024, 40 * 1024 * 1024)
        arguments = ("agent", "status", "--watch", "--data-dir", str(tmp_path))
        async with Terminal(*arguments, env={}, columns=150, rows=40) as terminal:
            await terminal.shows("pulling", "███░░░░░░░░░ 10.0 of 40.0 MiB")
            await terminal.shows("ready", "takes work    yes", f"{dispatcher.url} (connected)")
            await terminal.shows("███░░░░░░░░░ 0.5 held, 1.5 free", "████░░░░░░░░ 1 held, 2 free")
            for loop in ("link", "heartbeat", "engine", "journal", "overdue"):
                (line,) = [line for line in terminal.lines if line.startswith(f"{loop}  ")]
                assert line.split()[2:] == ["s", "ago", "ok"]
            function.report.phase("running")
            function.report.percent(50, "half way")
            await terminal.shows("running", "██████░░░░░░ 50 %", "half way")
            running.node.drain()
            await terminal.shows("draining", "takes work    no: drained on the machine itself")
            terminal.type("\x03")
            assert await terminal.ended() == 130


async def test_without_a_network_and_without_an_agent(start: StartNode, tmp_path: Path) -> None:
    """The status needs no dispatcher; where no agent runs, whoever watches waits for one."""
    arguments = ("agent", "status", "--watch", "--data-dir", str(tmp_path))
    async with Terminal(*arguments, env={}, columns=max(100, len(str(tmp_path)) + 60), rows=40) as terminal:
        await terminal.shows("no agent runs with", "trying again")
        running = start(urls=["http://127.0.0.1:1"])
        async with control.serving(tmp_path, running.node):
            await terminal.shows("http://127.0.0.1:1 (not connected)", "last contact  -", "link")
        await terminal.shows("no agent runs with", "not connected")
        terminal.type("\x03")
        assert await terminal.ended() == 130
