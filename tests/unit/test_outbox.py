"""What waits to be sent: nothing that matters is dropped, the rest gives way."""

from __future__ import annotations

import asyncio

import pytest

from agent import outbox as module
from agent.outbox import Outbox, OutboxFull
from agent.protocol import Accept, Credit, Lease, Outcome, Output, Progress


def lease(number: int) -> Lease:
    return Lease(f"{number:024x}", 1, bytes(16))


def progress(number: int, sequence: int) -> Progress:
    return Progress(lease(number), sequence, "running", sequence)


async def test_what_became_ready_together_travels_together() -> None:
    """Messages of one moment make one frame, accepts first."""
    box = Outbox()
    taking = asyncio.create_task(box.take())
    await asyncio.sleep(0)
    box.put(progress(1, 1))
    box.put(Accept(lease(2), Credit()))
    box.put(Accept(lease(3), Credit()))
    assert await taking == [Accept(lease(2), Credit()), Accept(lease(3), Credit()), progress(1, 1)]


async def test_only_the_newest_progress_of_an_attempt_waits_and_goes_before_its_outcome() -> None:
    """A slow line shows where an attempt is, not where it was, and never after its end."""
    box = Outbox()
    for sequence in range(1, 50):
        box.put(progress(1, sequence))
    box.put(Output(lease(1), 50, [("stdout", b"bye")]))
    box.put(Outcome(lease(1), "answered"))
    assert await box.take() == [
        Output(lease(1), 50, [("stdout", b"bye")]),
        progress(1, 49),
        Outcome(lease(1), "answered"),
    ]


async def test_frames_stay_small() -> None:
    """Many outcomes with bodies leave in several frames, in order, and all of them."""
    box = Outbox()
    outcomes = [Outcome(lease(number), "answered", body=bytes(256 * 1024)) for number in range(20)]
    for outcome in outcomes:
        box.put(outcome)
    sent: list[object] = []
    while len(sent) < 20:
        frame = await box.take()
        assert 1 <= len(frame) <= 4
        sent += frame
    assert sent == outcomes


async def test_output_is_bounded_and_outcomes_are_not_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output beyond its bound is left out; a peer that takes no messages ends the session instead of losing some."""
    monkeypatch.setattr(module, "WAITING", 3)
    box = Outbox()
    for sequence in range(100):
        box.put(Output(lease(1), sequence, [("stdout", bytes(64 * 1024))]))
    for number in range(3):
        box.put(Accept(lease(number), Credit()))
    with pytest.raises(OutboxFull):
        box.put(Accept(lease(3), Credit()))
    frame = await box.take()
    output = [message for message in frame if isinstance(message, Output)]
    assert sum(isinstance(message, Accept) for message in frame) == 4
    assert sum(len(line) for message in output for _, line in message.lines) <= module.OUTPUT_BYTES
    box.put(Output(lease(1), 101, [("stdout", b"room again")]))
    assert await box.take() == [Output(lease(1), 101, [("stdout", b"room again")])]


async def test_a_closed_outbox_gives_what_waits_and_then_nothing() -> None:
    """Whoever leaves says everything first."""
    box = Outbox()
    box.put(Accept(lease(1), Credit()))
    box.close()
    box.put(Accept(lease(2), Credit()))
    assert await box.take() == [Accept(lease(1), Credit())]
    assert await box.take() == []
