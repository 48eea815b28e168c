"""Reports of an attempt are few, numbered and complete at the end."""

from __future__ import annotations

import asyncio

from agent.progress import LINE_LIMIT, LINES_LIMIT, MESSAGE_LIMIT, ProgressReport
from agent.protocol import Lease, NodeMessage, Output, Phase, Progress

LEASE = Lease("0" * 24, 1, bytes(16))


def made() -> tuple[ProgressReport, list[NodeMessage], list[Phase]]:
    sent: list[NodeMessage] = []
    phases: list[Phase] = []
    return ProgressReport(LEASE, sent.append, phases.append), sent, phases


async def test_a_flood_becomes_one_message_that_says_the_last() -> None:
    """A million reports cost one message, and the last of them counts."""
    report, sent, phases = made()
    report.phase("running")
    for count in range(100_000):
        report.percent(count // 1000, f"step {count}")
    report.close()
    assert sent == [Progress(LEASE, 1, "running", 99, "step 99999")]
    assert phases == ["running"]


async def test_it_is_told_without_being_asked() -> None:
    """What was reported leaves by itself within the interval, numbered upwards."""
    told = asyncio.Event()
    sent: list[NodeMessage] = []

    def send(message: NodeMessage) -> None:
        sent.append(message)
        told.set()

    report = ProgressReport(LEASE, send, lambda _: None)
    for percent in (1, 2):
        report.percent(percent, "")
        async with asyncio.timeout(5):
            await told.wait()
        told.clear()
    assert [(message.sequence, message.percent) for message in sent if isinstance(message, Progress)] == [
        (1, 1),
        (2, 2),
    ]


async def test_the_percentage_never_falls_and_stays_in_its_bounds() -> None:
    """A function that counts down, or beyond 100, does no harm."""
    report, sent, _ = made()
    report.percent(60, "")
    report.percent(40, "x" * 10_000)
    report.percent(-5, "y" * 10_000)
    report.close()
    assert sent == [Progress(LEASE, 1, "pulling", 60, "y" * MESSAGE_LIMIT)]
    report, sent, _ = made()
    report.percent(700, "")
    report.close()
    assert sent == [Progress(LEASE, 1, "pulling", 100)]


async def test_output_is_bounded() -> None:
    """Long lines are cut and of many only the last are shown."""
    report, sent, _ = made()
    for number in range(1000):
        report.line("stderr", b"%d" % number + b"z" * 10_000)
    report.close()
    (output,) = sent
    assert isinstance(output, Output)
    assert len(output.lines) == LINES_LIMIT
    assert output.lines[-1][1].startswith(b"999z")
    assert {len(line) for _, line in output.lines} == {LINE_LIMIT}


async def test_pull_progress_is_gone_after_the_pull() -> None:
    """Bytes pulled are told while pulling only."""
    report, sent, _ = made()
    report.pulled(5, 10)
    report.close()
    report.line("stdout", b"late")
    report.percent(1, "late")
    report.close()
    assert sent == [Progress(LEASE, 1, "pulling", pulled=(5, 10))]


async def test_a_quick_pull_is_seen_to_its_end() -> None:
    """What was pulled is told before the next phase, even if the pull took less than the interval."""
    report, sent, entered = made()
    report.phase("pulling")
    report.pulled(10, 10)
    report.phase("starting")
    report.close()
    assert sent == [Progress(LEASE, 1, "pulling", pulled=(10, 10)), Progress(LEASE, 2, "starting")]
    assert entered == ["pulling", "starting"]
