"""What a node may say is bounded: numbers, texts and statuses that cannot be kept end its session."""

from __future__ import annotations

import math

import pytest

from agent.protocol import (
    Accept,
    Capabilities,
    Credit,
    CreditNotice,
    Decline,
    FrameError,
    GiveBack,
    Held,
    Lease,
    Load,
    NodeGoodbye,
    NodeHeartbeat,
    NodeHello,
    NodeMessage,
    Outcome,
    Output,
    Progress,
    Spans,
    decode_from_node,
    encode,
)

LARGEST = 2**53
LONGEST = 16 * 1024

LEASE = Lease("0" * 24, 1, bytes(16))
OLD = Lease("0" * 24, LARGEST + 1, bytes(16))
NODE = Capabilities(LARGEST, LARGEST, LARGEST, arch="a" * LONGEST)
CREDIT = Credit(LARGEST, -LARGEST, LARGEST, LARGEST)
WORDS = "x" * (LONGEST + 1)


@pytest.mark.parametrize(
    "message",
    [
        NodeHello("v" * LONGEST, NODE, CREDIT, held=[Held(LEASE, True)]),
        NodeHeartbeat(2**64 - 1, [LEASE], NODE, CREDIT, Load(100, LARGEST, 3), reason="r" * LONGEST),
        Accept(LEASE, CREDIT),
        Decline(LEASE, "", CREDIT),
        GiveBack(LEASE, "r" * LONGEST, True, CREDIT),
        CreditNotice(CREDIT),
        Progress(LEASE, LARGEST, "running", 100, "m" * LONGEST, pulled=(0, LARGEST)),
        Output(LEASE, 1, [("stdout", bytes(LONGEST))] * 100),
        Outcome(LEASE, "answered", 200, body_size=LARGEST, detail="d" * LONGEST),
        Outcome(LEASE, "answered", 999),
        Outcome(LEASE, "crash"),
        NodeGoodbye("r" * LONGEST),
    ],
)
def test_what_can_be_kept_passes(message: NodeMessage) -> None:
    """Everything up to the bounds is taken."""
    assert decode_from_node(encode([message])) == [message]


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan, 1e300, 2 * LARGEST])
def test_numbers_that_cannot_be_kept_are_refused(number: float) -> None:
    """Neither the store nor JSON could hold them, wherever they stand."""
    for message in (
        NodeHello("v", Capabilities(number, 1), Credit()),
        NodeHello("v", Capabilities(1, 1, number), Credit()),
        NodeHello("v", Capabilities(1, 1), Credit(cpu=number)),
        NodeHeartbeat(1, [], Capabilities(1, 1), Credit(), Load(cpu_percent=number)),
        CreditNotice(Credit(cpu=number)),
        Outcome(LEASE, "answered", 200, spans=Spans(running=number)),
        Outcome(LEASE, "answered", 200, credit=Credit(cpu=number)),
    ):
        with pytest.raises(FrameError):
            decode_from_node(encode([message]))


@pytest.mark.parametrize(
    "message",
    [
        Accept(OLD, CREDIT),
        Decline(OLD, "", CREDIT),
        GiveBack(OLD, "", True, CREDIT),
        Progress(OLD, 1, "running"),
        Progress(LEASE, 1, "pulling", pulled=(0, LARGEST + 1)),
        Output(OLD, 1, []),
        Outcome(OLD, "crash"),
        Outcome(LEASE, "answered", 200, body_size=LARGEST + 1),
        Outcome(LEASE, "answered", 200, body_size=-1),
        NodeHello("v", NODE, CREDIT, held=[Held(OLD, True)]),
        NodeHeartbeat(1, [OLD], NODE, CREDIT, Load()),
        NodeHello(WORDS, NODE, CREDIT),
        NodeHello("v", Capabilities(1, 1, arch=WORDS), CREDIT),
        NodeHeartbeat(1, [], NODE, CREDIT, Load(), reason=WORDS),
        Decline(LEASE, WORDS, CREDIT),
        GiveBack(LEASE, WORDS, True, CREDIT),
        Progress(LEASE, 1, "running", message=WORDS),
        Output(LEASE, 1, [("stdout", WORDS.encode())]),
        Outcome(LEASE, "crash", detail=WORDS),
        NodeGoodbye(WORDS),
        *(Outcome(LEASE, "answered", status) for status in (-1, 1000, 2**63)),
    ],
)
def test_what_goes_over_the_bounds_is_refused(message: NodeMessage) -> None:
    """Attempts and sizes that are too large, texts that are too long, answers that cannot be given."""
    with pytest.raises(FrameError):
        decode_from_node(encode([message]))
