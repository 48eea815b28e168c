"""Spans of tasks, as a collector of the test's own gets them by OTLP over HTTP."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from agent.protocol import Spans
from agent.settings import SettingsError
from dispatcher.cli import check_tracing
from dispatcher.config import OtelConfig
from tests.contract.http_api.api import CONFIG, SECONDS, Api, Node, Serve

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALLER = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=opaque"}


class Collector:
    """Takes spans, or answers with another status first."""

    def __init__(self) -> None:
        self.spans: asyncio.Queue[Any] = asyncio.Queue()
        self.answers: list[int] = []
        self.asked = 0

    async def take(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.answers:
            return web.Response(status=self.answers.pop(0))
        assert request.content_type == "application/x-protobuf"
        for of_resource in ExportTraceServiceRequest.FromString(await request.read()).resource_spans:
            names = {each.key: each.value.string_value for each in of_resource.resource.attributes}
            assert names["service.name"] == "fernd"
            for scope in of_resource.scope_spans:
                for span in scope.spans:
                    self.spans.put_nowait(span)
        return web.Response()

    async def task(self) -> tuple[Any, dict[str, Any]]:
        """The next task's span, and those of its phases by name."""
        async with asyncio.timeout(SECONDS):
            whole = await self.spans.get()
        phases = {}
        while not self.spans.empty():
            span = self.spans.get_nowait()
            assert (span.trace_id, span.parent_span_id) == (whole.trace_id, whole.span_id)
            phases[span.name] = span
        return whole, phases


@pytest.fixture(autouse=True)
def sent_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans are gathered for a shorter time than otherwise."""
    monkeypatch.setattr("dispatcher.tracing.SECONDS", 0.1)


@pytest.fixture
async def collector() -> AsyncIterator[tuple[Collector, str]]:
    taker = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", taker.take)
    async with TestServer(app) as server:
        yield taker, str(server.make_url("/"))


async def with_node(serve: Serve, endpoint: str) -> tuple[Api, Node]:
    api = await serve(msgspec.structs.replace(CONFIG, otel=OtelConfig(endpoint)))
    node = Node(api, *await api.join())
    await node.open()
    return api, node


def told(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


async def test_a_task_is_a_span_of_its_callers_trace(serve: Serve, collector: tuple[Collector, str]) -> None:
    """The task lies below the caller's span, its phases below the task, and the function gets the caller's header."""
    taker, endpoint = collector
    api, node = await with_node(serve, endpoint)
    function = await api.function()
    task = await api.task(function, headers=CALLER)
    offer = await node.take()
    assert ("traceparent", CALLER["traceparent"]) in offer.headers
    await node.finish(offer.lease, status=200, cold=True, spans=Spans(pulling=0, starting=0.25, running=0.125))
    whole, phases = await taker.task()
    assert (whole.trace_id.hex(), whole.parent_span_id.hex(), whole.trace_state) == (TRACE, PARENT, "vendor=opaque")
    assert told(whole) == {
        "fernd.task": task,
        "fernd.function": function,
        "fernd.attempt": 1,
        "fernd.node": node.id,
        "faas.coldstart": True,
        "http.response.status_code": 200,
    }
    assert list(phases) == ["queued", "starting", "running"]
    assert phases["queued"].start_time_unix_nano == whole.start_time_unix_nano
    at = phases["queued"].end_time_unix_nano
    for name in ("starting", "running"):
        assert phases[name].start_time_unix_nano == at
        at = phases[name].end_time_unix_nano
    assert whole.start_time_unix_nano <= at <= whole.end_time_unix_nano
    # Without a header, with one that is none, and with one that says that nobody records it.
    await api.task(function)
    await node.run()
    whole, _ = await taker.task()
    assert (whole.parent_span_id, len(whole.trace_id)) == (b"", 16)
    await api.task(function, headers={"traceparent": f"00-{'0' * 32}-{PARENT}-01"})
    await node.run()
    whole, _ = await taker.task()
    assert whole.parent_span_id == b""
    assert whole.trace_id != bytes(16)
    await api.task(function, headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    await node.run()
    failing = await api.task(function, headers=CALLER)
    await node.run(ending="crash", status=0, detail="exit code 3")
    whole, _ = await taker.task()
    assert (told(whole)["fernd.task"], told(whole)["error.type"]) == (failing, "CRASHED")
    assert (whole.status.code, whole.status.message) == (2, "exit code 3")
    cancelled = await api.task(function)
    await node.take()
    assert (await api("DELETE", f"/v1/task/{cancelled}")).status == 204
    whole, _ = await taker.task()
    assert told(whole)["error.type"] == "CANCELLED"
    await node.ws.close()


async def test_a_collector_that_is_away_holds_nobody_up(serve: Serve, collector: tuple[Collector, str]) -> None:
    """What it does not take now is sent again, what it refuses is not, and callers notice neither."""
    taker, endpoint = collector
    taker.answers = [503, 400]
    api, node = await with_node(serve, endpoint)
    function = await api.function()
    await api.task(function)
    await node.run()
    async with asyncio.timeout(SECONDS):
        while taker.asked < 2:
            await asyncio.sleep(0.01)
    task = await api.task(function)
    await node.run()
    whole, _ = await taker.task()
    assert told(whole)["fernd.task"] == task
    async with asyncio.timeout(SECONDS), aiohttp.ClientSession() as http:
        wanted = {'fernd_traces_total{result="sent"} 1', 'fernd_traces_total{result="refused"} 1'}
        while True:
            async with http.get(f"{api.url}/metrics") as response:
                if wanted <= set((await response.text()).splitlines()):
                    break
            await asyncio.sleep(0.01)
    await node.ws.close()


def test_nothing_of_it_is_imported_otherwise() -> None:
    """Neither program knows of OpenTelemetry or protobuf before a collector is named."""
    code = "import agent.daemon, agent.metrics, dispatcher.cli, sys; print([m for m in sys.modules if 'opentel' in m])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_without_the_extra_the_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is said in a sentence, with the command that brings it; without the setting nothing is."""
    check_tracing(OtelConfig("http://127.0.0.1:4318"))
    monkeypatch.setitem(sys.modules, "dispatcher.spans", None)
    check_tracing(OtelConfig())
    with pytest.raises(SettingsError) as refused:
        check_tracing(OtelConfig("http://127.0.0.1:4318"))
    assert refused.value.problems == [
        "otel.endpoint: needs opentelemetry-proto, which is not installed: pip install 'fernd[otel]'"
    ]
