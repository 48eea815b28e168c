"""All figures of the dispatcher, as Prometheus reads them.

Whatever can be looked up is looked up when somebody asks. No label has more values than this program has words: what
users name is never one.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from agent.exposition import CONTENT_TYPE, Family, Sample, by, counter, gauge, histogram, of_process, render
from dispatcher.core import Core
from dispatcher.routes.keys import CORE, now_ms
from dispatcher.store.errors import StoreUnavailable

OLDEST_OF = 1000
"""The age of the oldest waiting task is looked up for so many revisions at most."""

OLDEST_SECONDS = 2.0
"""So long it may take."""


async def show_metrics(request: web.Request) -> web.StreamResponse:
    """Give figures in Prometheus text format. They count from the start of this process."""
    core = request.app[CORE]
    body = render(families(core, await _oldest_seconds(request)))
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})


def families(core: Core, oldest_seconds: float | None) -> list[Family]:
    """Give every figure of the dispatcher.

    Args:
        oldest_seconds: How long the task waits that waits longest; None where the store did not say.
    """
    calls = core.store.calls
    by_kind: list[Sample] = [({"kind": "read"}, calls.read.seconds), ({"kind": "write"}, calls.write.seconds)]
    idle, stalled = core.idle(), core.stalled()
    return [
        *core.metrics.counted(),
        counter("tasks_ended_total", "Tasks ended, by error code; OK is an answer.", by("code", core.events.ended)),
        gauge("tasks_waiting", "Tasks that wait for a node.", core.queue.backlog.total),
        gauge("task_wait_oldest_seconds", "Age of the task that waits longest; 0 where none waits.",
              [] if oldest_seconds is None else oldest_seconds),
        gauge("tasks_leased", "Tasks that nodes with a session here hold.", len(core.leases)),
        gauge("nodes_connected", "Nodes that have a session here.", core.queue.nodes),
        gauge("nodes_available", "Nodes that have a session here and take work.", core.sessions.taking_work),
        gauge("callers_waiting", "Callers that wait for a result.", core.events.waiting),
        gauge("event_streams", "Streams of a task's events that are open.", core.events.watching),
        histogram("store_call_seconds", "Time that calls to the store took; writes until their commit.", by_kind),
        counter("store_failures_total", "Calls to the store that found it away.", by("kind", calls.failures)),
        counter("traces_total", "Tasks whose spans were sent, refused by the collector, or dropped since it is away.",
                by("result", core.tracing.tasks if core.tracing is not None else {})),
        gauge("loop_idle_seconds", "Time since a loop last made progress.", by("loop", idle)),
        gauge("loop_stalled", "1 where a loop should have made progress by now, otherwise 0.",
              by("loop", {loop: loop in stalled for loop in idle})),
        *of_process(core.version),
    ]  # fmt: skip


async def _oldest_seconds(request: web.Request) -> float | None:
    """Say how long the task waits that waits longest; None where the store does not say."""
    core = request.app[CORE]
    waiting = [revision.key for revision in core.matching.waiting()[:OLDEST_OF]]
    if not waiting:
        return 0.0
    try:
        async with asyncio.timeout(OLDEST_SECONDS):
            issued_ms = await core.store.oldest_queued(waiting)
    except (StoreUnavailable, TimeoutError):
        return None  # the other figures are all the more wanted then
    return 0.0 if issued_ms is None else max(0.0, (now_ms(request.app) - issued_ms) / 1000)
