"""A cancel on its way: from the owner's call over the session to the function."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from pathlib import Path

import docker
import pytest

from agent.containers.spec import NODE_LABEL
from tests.chaos.audit import audit
from tests.chaos.tally import Tally
from tests.chaos.workload import KINDS
from tests.chaos.world import world

pytestmark = [pytest.mark.engine, pytest.mark.chaos, pytest.mark.usefixtures("image")]

REACHES_SECONDS = 1.0


async def test_cancel_reaches_the_function_within_a_second(tmp_path: Path, tally: Tally) -> None:
    """From the call until the engine notes the signal; the task has ended by then, and its log follows."""
    async with world(tmp_path, tally, "cancel") as made:
        entries = await asyncio.gather(*(made.client.submit(kind, seconds=60.0) for kind in KINDS))
        for entry in entries:
            await made.executions.ran(entry.id)
        asked = time.time()
        assert all(await asyncio.gather(*map(made.client.cancel, entries)))
        node = made.places[0].agent.node_id
        took = await asyncio.to_thread(_seconds_until_signalled, made.engine, node, asked, len(entries))
        assert len(took) == len(entries)
        for seconds in took:
            tally.measured("cancel, until the signal to the function", seconds)
            assert seconds < REACHES_SECONDS
        for entry in entries:
            async with asyncio.timeout(20):
                while f"ran {entry.id}".encode() not in await made.client.log(entry):
                    await asyncio.sleep(0.02)  # it comes with the function's end
        await audit(made)


def _seconds_until_signalled(engine: str, node: str, asked: float, containers: int) -> list[float]:
    """Read from the engine's own log when each container of a node got its signal."""
    signals: dict[str, float] = {}
    with closing(docker.APIClient(f"unix://{engine}")) as client:
        ours = {"event": "kill", "label": f"{NODE_LABEL}={node}"}
        until = int(asked + REACHES_SECONDS) + 2
        with closing(client.events(since=int(asked), until=until, filters=ours, decode=True)) as events:
            for event in events:
                if event["Actor"]["Attributes"]["signal"] == "15":
                    signals.setdefault(event["Actor"]["ID"], event["timeNano"] / 1e9 - asked)
                if len(signals) == containers:
                    break
    return list(signals.values())
