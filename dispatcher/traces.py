"""To whose trace a task belongs, and what its spans are. Pure.

A caller that traces sends ``traceparent`` (https://www.w3.org/TR/trace-context/). The function gets it as it is; the
task becomes a span below the caller's, or the first of a new trace, and each phase a span below the task.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from msgspec import Struct

from agent.attempt_figures import PHASES
from agent.protocol import Headers, Spans

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1

NS = 1_000_000
"""Nanoseconds of a millisecond."""


class Trace(Struct, frozen=True):
    """What is known of a task's trace when the task is offered.

    Attributes:
        trace_id: The caller's, or a new one.
        parent_id: The caller's span; empty without one.
        state: The caller's ``tracestate``.
    """

    trace_id: bytes
    parent_id: bytes
    state: str
    issued_ms: int
    offered_ms: int


class Traced(Struct, frozen=True):
    """A task that ended."""

    trace: Trace
    task: str
    attempt: int
    function: str
    node: str
    finished_ms: int
    status: int
    error: str | None
    detail: str
    cold: bool | None
    spans: Spans


def follow(headers: Headers, issued_ms: int, offered_ms: int, new_id: Callable[[int], bytes]) -> Trace | None:
    """Find the trace of a task by the headers of its caller; None where the caller does not want it recorded.

    Args:
        new_id: Makes an id of so many bytes.
    """
    lines = [value.strip() for name, value in headers if name.lower() == "traceparent"]
    found = _TRACEPARENT.fullmatch(lines[0]) if len(lines) == 1 else None
    if found is None or not _is_sound(found):
        return Trace(new_id(16), b"", "", issued_ms, offered_ms)
    if not int(found[4], 16) & _SAMPLED:
        return None
    state = ",".join(value.strip() for name, value in headers if name.lower() == "tracestate")
    return Trace(bytes.fromhex(found[2]), bytes.fromhex(found[3]), state, issued_ms, offered_ms)


def whole(traced: Traced) -> tuple[int, int]:
    """Say from when to when a task lasted, in nanoseconds since the epoch."""
    issued_ms = traced.trace.issued_ms
    return issued_ms * NS, max(traced.finished_ms, issued_ms) * NS


def phases(traced: Traced) -> Iterator[tuple[str, int, int]]:
    """Lay out the phases that a task was in: the name, and from when to when.

    The node told how long each took; they followed one another from the offer on. None goes beyond the task, though
    clocks are set.
    """
    issued, finished = whole(traced)
    at = min(max(traced.trace.offered_ms * NS, issued), finished)
    yield "queued", issued, at
    for phase in PHASES:
        if (milliseconds := getattr(traced.spans, phase)) > 0:
            until = min(at + round(milliseconds * NS), finished)
            yield phase, at, until
            at = until


def _is_sound(found: re.Match[str]) -> bool:
    version, trace_id, parent_id, _, more = found.groups()
    return version != "ff" and not (version == "00" and more) and bool(int(trace_id, 16)) and bool(int(parent_id, 16))
