"""One attempt of one task, from accepted to its ending.

`Invocation.run` always comes to an end, and says by evidence what happened: the function answered, or it did
not and here is why (`Ran`); or the attempt ended for a reason that is not the function's (`GaveBack`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from structlog.typing import FilteringBoundLogger

from agent.containers.answer import AnswerBody, AnswerNotKept
from agent.containers.engine import EngineError, EngineUnavailable
from agent.containers.execution import CannotRun, ConnectionLost, Execution, GaveBack, Ran, Report
from agent.containers.host import ContainerHost, Refused
from agent.containers.images import ImageUnavailable, NoDisk
from agent.containers.job import readopt_job, run_job
from agent.containers.pool import NoRoom
from agent.containers.server import serve
from agent.containers.spec import JOB_LOG_MIB
from agent.protocol import Offer
from agent.task_state import StopReason

__all__ = ["GaveBack", "Invocation", "Ran", "Report", "StopReason"]


class Invocation:
    """Runs one attempt, once.

    Args:
        body: The input, or the file that it is in.
        spool: Directory for a large answer, as ``<task>.<token>.body``.
        result_limit: Bytes that an answer may have; 0 where no dispatcher has said so yet.
        readopt: The container of an earlier run of the agent works for it already, and was claimed by
            `ContainerHost.readopt`; the input is not needed.
    """

    def __init__(  # noqa: PLR0917 - all but the clocks are what the invocation is of
        self,
        offer: Offer,
        body: bytes | Path,
        host: ContainerHost,
        report: Report,
        spool: Path,
        result_limit: int,
        *,
        readopt: bool = False,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = host
        file = spool / f"{offer.lease.task}.{offer.lease.token.hex()}.body"
        # What the engine's log of a job holds is bounded too; the dispatcher refuses what is too large for it.
        self._answer = AnswerBody(file, result_limit or JOB_LOG_MIB * 1024 * 1024)
        self._readopt = readopt
        self._execution = Execution(offer, body, host, report, self._answer, wall=wall, monotonic=monotonic)
        self._stop_reason: StopReason | None = None
        self._working: asyncio.Task[Ran | GaveBack] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._lease = offer.lease

    @property
    def _log(self) -> FilteringBoundLogger:
        lease = self._lease
        bound: FilteringBoundLogger = structlog.get_logger().bind(task=lease.task, attempt=lease.attempt)
        return bound

    async def run(self) -> Ran | GaveBack:
        """Run the attempt. Raises nothing but CancelledError, which ends the container too."""
        self._working = work = asyncio.create_task(self._work())
        if self._stop_reason is not None:
            self._stopping = asyncio.create_task(self._stop(work))
        try:
            await asyncio.wait({work})
            return work.result() if self._stopping is None else await self._stopped(work)
        finally:
            tasks = [task for task in (work, self._stopping) if task is not None]
            for task in tasks:
                task.cancel()
            if not work.done() or self._stopping is not None:
                await asyncio.gather(*tasks, return_exceptions=True)

    def stop(self, reason: StopReason) -> None:
        """End the attempt soon: a signal to the function, time to obey, then the kill. The first reason stands."""
        if self._stop_reason is None:
            self._stop_reason = reason
            if self._working is not None and not self._working.done():
                self._stopping = asyncio.create_task(self._stop(self._working))

    def time_left(self) -> float | None:
        """Seconds until the function has to have ended, at most; None: it does not run yet."""
        return self._execution.time_left()

    async def _stop(self, work: asyncio.Task[Ran | GaveBack]) -> None:
        if await self._execution.signal_end():
            await asyncio.wait({work}, timeout=self._execution.grace)
        # What cannot be stopped by asking is removed with its container.
        work.cancel()
        await asyncio.wait({work})

    async def _stopped(self, work: asyncio.Task[Ran | GaveBack]) -> Ran | GaveBack:
        result = None if work.cancelled() else work.result()
        answered = isinstance(result, Ran) and result.outcome.ending == "answered"
        if self._stop_reason in {"drained", "stopped_by_owner"} and result is not None and answered:
            return result
        await self._answer.discard()
        if self._stop_reason == "cancelled":
            return self._execution.ended("cancelled", "the task was cancelled")
        return GaveBack(self._stop_reason or "stale", self._execution.started)

    async def _work(self) -> Ran | GaveBack:
        result: Ran | GaveBack | None = None
        try:
            result = await self._ran_or_gave_back()
        finally:
            if not isinstance(result, Ran) or result.outcome.ending != "answered":
                await self._answer.discard()
        return result

    async def _ran_or_gave_back(self) -> Ran | GaveBack:  # noqa: C901 - one clause for each thing that can go wrong
        execution = self._execution
        try:
            if execution.revision.mode == "http":
                return await serve(execution)
            return await (readopt_job if self._readopt else run_job)(execution)
        except NoDisk as error:
            self._log.warning("image not pulled", reason=str(error))
            return GaveBack(str(error), started=False)
        except ImageUnavailable as error:
            return execution.ended("image_unavailable", str(error))
        except CannotRun as error:
            return execution.ended("crash", str(error))
        except Refused as error:
            return GaveBack(str(error), started=False)
        except NoRoom as error:
            self._log.warning("no room for a container", reason=str(error))
            return GaveBack("no_room", started=False)
        except AnswerNotKept as error:
            self._log.error("answer cannot be kept on this disk", reason=str(error))
            return GaveBack("disk", started=True)
        except ConnectionLost as error:
            self._log.warning("connection lost", reason=str(error))
            return GaveBack("connection_lost", started=True)
        except EngineUnavailable as error:
            self._log.warning("engine lost", reason=str(error))
            return GaveBack("engine_lost", execution.started)
        except EngineError as error:
            self._log.error("engine refused", status=error.status, reason=error.message)
            # It counts as an attempt whether it began or not, so that such a task does not go round for ever.
            return GaveBack("engine_error", started=True)
        except Exception:  # noqa: BLE001
            # The last line of defence: what goes wrong with one task must not touch another.
            self._log.exception("attempt failed")
            return GaveBack("internal_error", started=True)
