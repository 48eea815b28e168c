from __future__ import annotations

import asyncio
from typing import cast

import pytest
from aiohttp import WSCloseCode, web

from agent.protocol import DispatcherHeartbeat
from dispatcher import wire
from dispatcher.wire import Broken, Wire


class Stuck:
    """The WebSocket of a node that reads nothing, and whose buffers are full."""

    async def send_bytes(self, _: bytes) -> None:
        await asyncio.Event().wait()


async def test_what_a_node_does_not_read_does_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its bound the outbox takes nothing more, however much is said, and the session ends as too slow."""
    monkeypatch.setattr(wire, "OUTBOX_BYTES", 10_000)
    monkeypatch.setattr(wire, "SEND_SECONDS", 0.05)
    session = Wire(cast("web.WebSocketResponse", Stuck()))

    async def say_much() -> None:
        async with asyncio.TaskGroup() as group:
            session.begin(group)
            for number in range(10_000):
                session.send(DispatcherHeartbeat(number, number))
            assert session._outbox_bytes < 11_000

    with pytest.raises(ExceptionGroup) as ended:
        await say_much()
    broken = ended.value.exceptions[0]
    assert isinstance(broken, Broken)
    assert (broken.code, broken.reason) == (WSCloseCode.TRY_AGAIN_LATER, "the node reads too slowly")
