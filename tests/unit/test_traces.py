"""Whose trace a task belongs to, and where its phases lie."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.protocol import Spans
from dispatcher.traces import Trace, Traced, follow, phases, whole

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def new_id(size: int) -> bytes:
    return b"n" * size


@pytest.mark.parametrize(
    "value",
    [
        "",
        "nonsense",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"ff-{TRACE}-{PARENT}-01",
    ],
)
def test_what_is_no_traceparent_begins_a_new_trace(value: str) -> None:
    """As the specification has it, it is as if there were none."""
    assert follow([("traceparent", value)], 1, 2, new_id) == Trace(b"n" * 16, b"", "", 1, 2)


def test_the_callers_trace_goes_on() -> None:
    """Name in any case; a later version may have more; two of them are none; not sampled is not recorded."""
    parent = ("TraceParent", f"00-{TRACE}-{PARENT}-01")
    found = follow([parent, ("tracestate", "a=1"), ("Tracestate", "b=2")], 1, 2, new_id)
    assert found == Trace(bytes.fromhex(TRACE), bytes.fromhex(PARENT), "a=1,b=2", 1, 2)
    later = follow([("traceparent", f"01-{TRACE}-{PARENT}-01-more")], 1, 2, new_id)
    assert later is not None
    assert later.parent_id.hex() == PARENT
    twice = follow([parent, parent], 1, 2, new_id)
    assert twice is not None
    assert twice.parent_id == b""
    assert follow([("traceparent", f"00-{TRACE}-{PARENT}-02")], 1, 2, new_id) is None


_MS = st.integers(0, 2**41)


@given(_MS, _MS, _MS, st.builds(Spans, *[st.floats(0, 1e9)] * 4))
def test_phases_lie_within_their_task(issued: int, offered: int, finished: int, spans: Spans) -> None:
    """One after the other, from the beginning, none beyond the end, whatever the clocks say."""
    trace = Trace(b"t" * 16, b"", "", issued, offered)
    traced = Traced(trace, "t", 1, "f", "n", finished, 200, None, "", cold=False, spans=spans)
    at, end = whole(traced)
    for name, begun, ended in phases(traced):
        assert name == "queued" or getattr(spans, name) > 0
        assert begun == at
        assert begun <= ended <= end
        at = ended
