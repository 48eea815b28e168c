"""What a node may say, beyond what the types of the wire hold it to. Pure.

One node must not be able to say a number that the store or an answer in JSON cannot hold, an answer
that no caller could be given, or a text that fills the dispatcher's memory and log.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent.protocol import (
    Accept,
    Capabilities,
    Credit,
    CreditNotice,
    Decline,
    FrameError,
    GiveBack,
    NodeGoodbye,
    NodeHeartbeat,
    NodeHello,
    NodeMessage,
    Outcome,
    Output,
    Progress,
)

LARGEST = 2**53 - 1
"""The largest number, either side of zero: whoever reads JSON gets it as it was written."""

LONGEST = 16 * 1024
"""Characters of a text, bytes of a line."""

STATUSES = range(200, 1000)
"""What a function can answer."""


def check(message: NodeMessage) -> None:
    """Let a message pass, if all that it says can be kept and shown.

    Raises:
        FrameError: It cannot; the text says why.
    """
    kind = type(message).__name__
    for number in _numbers(message):
        if not abs(number) <= LARGEST:  # so that NaN does not pass
            raise FrameError(f"{kind} has a number that cannot be kept: {number}")
    for text in _texts(message):
        if len(text) > LONGEST:
            raise FrameError(f"{kind} has a text of more than {LONGEST} characters")
    if isinstance(message, Outcome):
        if message.ending == "answered" and message.status not in STATUSES:
            raise FrameError(f"Outcome has no status of an answer: {message.status}")
        if message.body_size < 0:
            raise FrameError("Outcome has a body of less than nothing")


def _numbers(message: NodeMessage) -> Iterable[float]:
    match message:
        case NodeHello():
            yield from (held.lease.attempt for held in message.held)
            yield from _of_capabilities(message.capabilities)
            yield from _of_credit(message.credit)
        case NodeHeartbeat():
            yield from (lease.attempt for lease in message.leases)
            yield from _of_capabilities(message.capabilities)
            yield from _of_credit(message.credit)
            yield from (message.load.cpu_percent, message.load.memory_free, message.load.running)
        case Accept() | Decline() | GiveBack():
            yield message.lease.attempt
            yield from _of_credit(message.credit)
        case CreditNotice():
            yield from _of_credit(message.credit)
        case Progress():
            yield message.lease.attempt
            yield from message.pulled or ()
        case Output():
            yield message.lease.attempt
        case Outcome():
            spans = message.spans
            yield from (message.lease.attempt, message.body_size)
            yield from (spans.pulling, spans.starting, spans.running, spans.uploading)
            if message.credit is not None:
                yield from _of_credit(message.credit)


def _texts(message: NodeMessage) -> Iterable[str | bytes]:
    match message:
        case NodeHello():
            yield from (message.version, message.capabilities.arch)
        case NodeHeartbeat():
            yield from (message.reason, message.capabilities.arch)
        case Decline() | GiveBack() | NodeGoodbye():
            yield message.reason
        case Progress():
            yield message.message
        case Output():
            yield from (line for _, line in message.lines)
        case Outcome():
            yield message.detail


def _of_capabilities(capabilities: Capabilities) -> Iterable[float]:
    return capabilities.cpu_count, capabilities.mem_size, capabilities.network_latency or 0


def _of_credit(credit: Credit) -> Iterable[float]:
    return credit.cpu, credit.memory, credit.slots, credit.offers_seen
