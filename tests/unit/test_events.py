from __future__ import annotations

import asyncio

import pytest

from agent.protocol import Log
from dispatcher import events as board
from dispatcher.events import KEPT, Event, Events

END = {"state": "finished", "status": 200, "error": None}


async def collect(events: Events, task: str, after: int | None = None) -> list[Event]:
    return [event async for event in events.watch(task, after)]


async def test_a_watcher_sees_everything_in_order_to_the_end() -> None:
    """Events come in order, with ids that count up, and the stream ends with the task."""
    events = Events()
    events.publish("t", "state", {"state": "queued"})
    watcher = asyncio.create_task(collect(events, "t"))
    await asyncio.sleep(0)
    events.publish("t", "progress", {"progress": 5})
    events.publish("t", "end", END)
    seen = await watcher
    assert [(event.id, event.kind) for event in seen] == [(1, "state"), (2, "progress"), (3, "end")]


async def test_watching_resumes_after_the_last_seen() -> None:
    """A watcher that comes back with the last id misses nothing and sees nothing twice."""
    events = Events()
    for percent in range(5):
        events.publish("t", "progress", {"progress": percent})
    watcher = asyncio.create_task(collect(events, "t", after=3))
    await asyncio.sleep(0)
    events.publish("t", "end", END)
    assert [event.id for event in await watcher] == [4, 5, 6]


async def test_memory_is_bounded_for_a_task_and_given_back_at_its_end() -> None:
    """A task that says a lot keeps its last events only, and none after its end."""
    events = Events()
    for percent in range(KEPT * 3):
        events.publish("t", "progress", {"progress": percent})
    assert len(events._channels["t"].events) == KEPT
    events.publish("t", "end", END)
    assert events._channels == {}
    assert events.ended == {"OK": 1}


async def test_what_ended_tasks_wrote_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tasks that ended the last ones are kept, and of each the end of what it wrote."""
    monkeypatch.setattr(board, "ENDED_LOG_BYTES", 10_000)
    monkeypatch.setattr(board, "LOG_SHARE", 1_000)
    events = Events()
    for task in range(20):
        for number in range(100):
            events.publish(f"t{task}", "log", {"stream": "stderr", "line": f"{number:099}"})
        events.publish(f"t{task}", "end", END)
    assert [task for task in range(20) if events.past(f"t{task}", None)] == list(range(10, 20))
    assert [event.id for event in events.past("t19", 98)] == [99, 100, 101]
    assert events._log_bytes == 0


async def test_a_flood_of_lines_does_not_hide_where_a_task_stands() -> None:
    """Who comes after many log lines still learns of the last state, phase and progress, in order."""
    events = Events()
    events.publish("t", "state", {"state": "queued"})
    events.publish("t", "state", {"state": "accepted"})
    events.publish("t", "phase", {"phase": "running"})
    events.publish("t", "progress", {"progress": 5})
    for number in range(KEPT * 2):
        events.publish("t", "log", {"stream": "stdout", "line": f"{number}"})
    watcher = asyncio.create_task(collect(events, "t"))
    await asyncio.sleep(0)
    events.publish("t", "end", END)
    seen = await watcher
    assert [event.id for event in seen[:4]] == [2, 3, 4, 261]
    assert [event.kind for event in seen[:3]] == ["state", "phase", "progress"]
    assert [event.id for event in seen] == sorted(event.id for event in seen)


async def test_log_lines_of_all_tasks_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where many tasks write much, one that writes keeps its last lines only; what it left out is counted."""
    monkeypatch.setattr(board, "LOG_BYTES", 10_000)
    monkeypatch.setattr(board, "LOG_SHARE", 1_000)
    events = Events()
    for number in range(100):
        for task in range(20):
            events.publish(f"t{task}", "log", {"stream": "stderr", "line": f"{number:099}"})
    assert events._log_bytes == sum(channel.log_bytes for channel in events._channels.values()) <= 20 * 1_000
    log = events.log("t7")
    assert log.tail.endswith(f"{99:099}\n".encode())
    assert log.omitted + len(log.tail) == 100 * 100
    for task in range(20):
        events.publish(f"t{task}", "end", END)
    assert events._log_bytes == 0
    assert events.log("t7") == Log()


async def test_waiting_ends_with_the_task_or_with_the_time() -> None:
    """Who waits learns of the end, also when it came just before; and nobody waits for ever."""
    events = Events()
    waiter = asyncio.create_task(events.finished("t", 10))
    await asyncio.sleep(0)
    events.publish("t", "end", END)
    assert await waiter
    assert await events.finished("t", 10)
    assert not await events.finished("other", 0.001)
    assert events._waiting == {}
