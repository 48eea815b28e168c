from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.protocol import (
    Abandon,
    Accept,
    Credit,
    FrameError,
    Lease,
    Revision,
    decode_from_dispatcher,
    decode_from_node,
    encode,
)

LEASE = Lease("6405942c9956fae80d7e0e91", 1, bytes(16))


def test_a_frame_carries_several_messages() -> None:
    """What was put into a frame comes out of it, in order."""
    messages = [Accept(LEASE, Credit(1, 256, 1)), Accept(LEASE, Credit())]
    assert decode_from_node(encode(messages)) == messages


def test_a_field_of_a_newer_peer_is_passed_over() -> None:
    """A peer that is newer may say more than this side understands."""
    lease = {"task": LEASE.task, "attempt": 1, "token": LEASE.token}
    frame = msgspec.msgpack.encode([{"type": "abandon", "lease": lease, "reason": "stale", "colour": "red"}])
    assert decode_from_dispatcher(frame) == [Abandon(LEASE, "stale")]


def test_each_side_refuses_the_messages_of_its_own() -> None:
    """A node cannot send what only the dispatcher may say, and the other way round."""
    with pytest.raises(FrameError):
        decode_from_node(encode([Abandon(LEASE, "stale")]))
    with pytest.raises(FrameError):
        decode_from_dispatcher(encode([Accept(LEASE, Credit())]))


@given(st.binary(max_size=400))
def test_garbage_is_a_frame_error_and_nothing_else(frame: bytes) -> None:
    """No bytes make the decoder fail in any other way."""
    with contextlib.suppress(FrameError):
        decode_from_node(frame)


@given(
    st.recursive(
        st.none() | st.integers() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_wrong_shapes_are_a_frame_error_and_nothing_else(shape: object) -> None:
    """Well-formed MessagePack of any other shape is refused as cleanly."""
    try:
        frame = msgspec.msgpack.encode(shape)
    except OverflowError:
        return
    if shape != []:
        with pytest.raises(FrameError):
            decode_from_node(frame)


def test_deep_nesting_is_a_frame_error() -> None:
    """A frame that is all brackets does not exhaust the stack."""
    with pytest.raises(FrameError):
        decode_from_node(b"\x91" * 100_000)


@given(st.integers(1, 10**8), st.binary(min_size=16, max_size=16))
def test_the_lease_header_goes_there_and_back(attempt: int, token: bytes) -> None:
    """The header names exactly one lease."""
    lease = Lease(LEASE.task, attempt, token)
    assert Lease.from_header(lease.task, lease.header()) == lease


@given(st.text(max_size=60))
def test_a_wrong_lease_header_is_a_value_error(value: str) -> None:
    """Whatever else a header holds is refused in one way."""
    try:
        lease = Lease.from_header(LEASE.task, value)
    except ValueError:
        return
    assert len(lease.token) == 16


def test_defaults_where_nothing_was_asked_for() -> None:
    """No requirement still means a bounded container: 1 CPU, 256 MiB, 10 s (contract section 3)."""
    plain = Revision("6404b3da46551827c611ffe5", 1, "image")
    assert (plain.cpus, plain.memory, plain.timeout) == (1, 256, 10)
