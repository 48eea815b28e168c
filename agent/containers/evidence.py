"""Why a container ended, by evidence and not by its exit code alone.

Exit code 137 says that SIGKILL ended the function, or a child of it, and nothing about who sent it:

- The kernel, for lack of memory: the engine's flag or the kernel's own count says so.
- Somebody through the engine, as with ``docker kill``: the engine has an event for each such signal, and
  there are more of them than we sent; or the container is gone and we did not remove it.
- Anything else is the function's own doing as far as anyone can tell. That includes root on the machine who
  kills the process past the engine: nothing distinguishes it from a function that kills itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal

import structlog
from msgspec import Struct

from agent.containers.container import Container
from agent.containers.engine import Engine, EngineError, EngineUnavailable
from agent.protocol import Ending

log = structlog.get_logger()

OOM_FLAG_SECONDS = 0.3
"""An end and a lack of memory are learned of by two ways, by the engine and by us; the second may be so much later."""

UNREACHABLE_SECONDS = 5.0
"""A container that cannot be reached has most likely just ended; so long its end is waited for."""

LAST_BREATH_SECONDS = 0.5
"""An engine that stops its containers because it ends does not answer any more after so long."""

_KILLED = 128 + signal.SIGKILL


class Death(Struct, frozen=True):
    """How a container ended.

    Attributes:
        ending: ``oom``, ``external_kill`` or ``crash``.
        detail: One sentence for people.
        exit_code: None where it is not known.
        signal: Name of the signal that ended it, or empty.
    """

    ending: Ending
    detail: str
    exit_code: int | None = None
    signal: str = ""


async def death_of(engine: Engine, container: Container, patience: float) -> Death | None:
    """Find out how a container ended; None if it lives on after some patience.

    Args:
        patience: Seconds to wait for its end.

    Raises:
        EngineUnavailable: The engine stayed away, and nothing is known; or its own end may be what ended the
            container.
    """
    kills = container.oom.kills()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience):
            await container.ended.wait()
    # An engine that is away has most likely to do with it, and says so when it is back.
    await container.in_sight.wait()
    if not container.ended.is_set():
        kills = container.oom.kills() or kills
        return Death("oom", "a process of the function was killed for lack of memory") if kills else None
    await certain_of(engine, container)
    if container.last is None:
        return Death("external_kill", "the container was removed by somebody else")
    code = container.last.exit_code
    if kills or await _lacked_memory(engine, container):
        return Death("oom", f"the function needed more than its {container.spec.memory} MiB of memory", code)
    if await _signalled_by_others(engine, container):
        return Death("external_kill", f"the container was ended by somebody else (exit code {code})", code)
    if name := signal_name(code):
        return Death("crash", f"the function was ended by {name} (exit code {code})", code, name)
    return Death("crash", f"the function exited with code {code}", code)


async def certain_of(engine: Engine, container: Container) -> None:
    """See to it that a container's end is its own doing, and that nothing is missing.

    An engine that ends stops its containers first, unless it is set to let them live; some of them even end
    with code 0 then. One that remembers the container's start was not restarted, and merely did not answer.
    Of a job that ended while there was no engine what it wrote last is lost, whatever its exit code says.

    Raises:
        EngineUnavailable: That is not certain.
    """
    if container.lost:
        raise EngineUnavailable("what the container did is not known")
    if container.last is None:
        return
    job = container.spec.mode == "job"
    try:
        if job and container.disturbed and not await engine.saw_end(container.last.id):
            raise EngineUnavailable("the job ended while no engine kept what it wrote")
        if engine.live_restore:
            return
        signals = await engine.signals(container.last.id)
        if signals is None and container.disturbed:
            raise EngineUnavailable("the engine was restarted while the container ran")
        if (signals or 0) > container.signals:
            await asyncio.sleep(LAST_BREATH_SECONDS)
            # It may go on answering on connections that it has, and takes no new ones.
            async with engine.anew() as asked:
                if not await asked.remembers(container.last.id):
                    raise EngineUnavailable("the engine was restarted while the container ran")
    except EngineError as error:
        raise EngineUnavailable(error.message) from None


def signal_name(exit_code: int) -> str:
    """Name the signal that an exit code stands for, or give an empty string."""
    try:
        return signal.Signals(exit_code - 128).name
    except ValueError:
        return ""


async def _lacked_memory(engine: Engine, container: Container) -> bool:
    assert container.last is not None  # noqa: S101 - the caller looked
    killed = container.last.exit_code == _KILLED
    if container.last.oom_killed:
        # The flag stays once it is up: it may be of an earlier task, which survived it.
        return killed or not container.oom.before
    if not killed:
        return False
    await asyncio.sleep(OOM_FLAG_SECONDS)
    try:
        return bool(container.oom.kills()) or (await engine.inspect(container.name)).oom_killed
    except (EngineError, EngineUnavailable) as error:
        log.info("end not looked at again", container=container.name, reason=str(error))
        return False


async def _signalled_by_others(engine: Engine, container: Container) -> bool:
    assert container.last is not None  # noqa: S101 - the caller looked
    try:
        # An engine that has forgotten the start may have forgotten signals too: then nothing is claimed.
        return (await engine.signals(container.last.id) or 0) > container.signals
    except (EngineError, EngineUnavailable) as error:
        log.info("signals not counted", container=container.name, reason=str(error))
        return False
