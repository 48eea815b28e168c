"""The dispatcher as a service: what the service manager is told, and settings that are read again on SIGHUP."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable

import structlog

from agent import logs
from agent.service import Reporter
from agent.settings import SettingsError
from agent.systemd import ServiceManager
from dispatcher.config import DispatcherConfig
from dispatcher.core import Core

SETTLE_SECONDS = 20.0
"""For sessions to end and the store to be closed, beyond the grace that requests have."""

log = structlog.get_logger()


class Running:
    """A dispatcher that listens, as `agent.service.Service` wants it."""

    is_up = True

    def __init__(self, core: Core, url: str) -> None:
        self.stop_seconds: float | None = None
        self._core = core
        self._url = url

    def summary(self) -> str:
        """Say in a line how it is."""
        waiting = self._core.queue.backlog.total
        return f"listening on {self._url}: {self._core.sessions.count} nodes connected, {waiting} tasks wait"


@contextlib.asynccontextmanager
async def supervised(
    core: Core, url: str, config: DispatcherConfig, read_again: Callable[[], DispatcherConfig]
) -> AsyncIterator[None]:
    """Keep the service manager informed while the context lasts; its end is the beginning of the stop.

    Args:
        read_again: Reads the settings anew; raises `SettingsError` where they are wrong.
    """
    manager = ServiceManager(os.environ)
    running = Running(core, url)
    reporter = Reporter(manager, running, core.stalled)

    def reload() -> None:
        manager.reloading()
        _reload(read_again)
        reporter.reloaded()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, reload)
    reporting = asyncio.create_task(reporter.run(), name="service manager") if manager.listens else None
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        if reporting is not None:
            reporting.cancel()
            await asyncio.wait([reporting])
            running.stop_seconds = config.server.stop_grace + SETTLE_SECONDS
            reporter.look()


def _reload(read_again: Callable[[], DispatcherConfig]) -> None:
    """Read the settings again and go by the one that can change while the dispatcher runs: how much is logged."""
    try:
        new = read_again()
    except SettingsError as error:
        log.error("settings are wrong, the old ones stay", problems=error.problems)  # noqa: TRY400 - a sentence
        return
    logs.set_level(new.log.level)
    log.info("settings were read again", changed=["log.level"], level=new.log.level)
