"""What all attempts of a node work with."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from agent.bodies import Bodies
from agent.invocation import GaveBack, Ran, Report
from agent.journal import Journal
from agent.metrics import Metrics
from agent.protocol import Credit, NodeMessage, Offer
from agent.task_state import StopReason

if TYPE_CHECKING:
    from agent.attempt import Attempt


class Work(Protocol):
    """What runs for an attempt: `agent.invocation.Invocation`."""

    async def run(self) -> Ran | GaveBack:
        """Run until the attempt has an ending."""

    def stop(self, reason: StopReason) -> None:
        """End it soon; `run` returns."""

    def time_left(self) -> float | None:
        """Seconds that it may still take at most; None: nobody can tell yet."""


class Begin(Protocol):
    """Makes the work of an offer."""

    def __call__(self, offer: Offer, body: bytes | Path, report: Report, *, readopt: bool) -> Work:
        """Make it.

        Args:
            body: The input.
            report: Hears how far it is.
            readopt: The container of an earlier run of the agent works for it already, and has its input.
        """


@dataclasses.dataclass(frozen=True, slots=True)
class Workplace:
    """What all attempts of a node work with.

    Attributes:
        send: Puts a message into the session; False where there is none.
        credit: Gives what is free now.
        begin: Makes the work of an offer with its input.
        spawn: Starts a task that is the node's to keep and to wait for.
        changed: Called with an attempt whose state changed.
        gave_back: Called with the reason when work ended without an outcome, before the dispatcher is told.
        metrics: Counts what comes of attempts.
    """

    journal: Journal
    bodies: Bodies
    send: Callable[[NodeMessage], bool]
    credit: Callable[[], Credit]
    begin: Begin
    spawn: Callable[[Coroutine[Any, Any, Any], str], asyncio.Task[Any]]
    changed: Callable[[Attempt], None]
    gave_back: Callable[[str], None]
    metrics: Metrics
    monotonic: Callable[[], float] = time.monotonic
