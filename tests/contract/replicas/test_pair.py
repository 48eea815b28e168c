"""Whichever dispatcher a caller asks, and wherever the node is: it makes no difference."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import pytest

from agent.protocol import (
    Abandon,
    Capabilities,
    DispatcherGoodbye,
    Held,
    Offer,
)
from tests.contract.http_api.api import SECONDS, Api, Node
from tests.contract.replicas.pair import NO_STORE, Pair, two


async def test_created_here_run_there_awaited_here(pair: Pair) -> None:
    """A task created at A is offered by B, where the node is; a caller that waits at A has its result at once."""
    a, node = pair.api(pair.a), await pair.node(pair.b)
    function = await pair.function()
    waiting = asyncio.create_task(a("POST", f"/v1/task/{function}", body=b"{}", headers={"Prefer": "wait=20"}))
    offer = await node.run(body=b"done")
    answer = await waiting
    assert (answer.status, answer.body, answer.headers["X-Task-Id"]) == (200, b"done", offer.lease.task)
    task = (await pair.api(pair.b)("GET", f"/v1/task/{offer.lease.task}")).json()
    assert (task["state"], task["node"], task["progress"]) == ("finished", node.id, 100)


async def test_cancelled_here_stopped_there(pair: Pair) -> None:
    """A cancel at A reaches the node that is at B."""
    a, node = pair.api(pair.a), await pair.node(pair.b)
    task = await a.task(await pair.function())
    offer = await node.take()
    assert (await a("DELETE", f"/v1/task/{task}")).status == 204
    abandon = await node.receive(Abandon)
    assert (abandon.lease, abandon.reason) == (offer.lease, "cancelled")


async def test_watched_here_what_happens_there(pair: Pair) -> None:
    """A watcher at A is told each event once, in order; one that comes late is told what came before, and the end."""
    a, node = pair.api(pair.a), await pair.node(pair.b)
    task = await a.task(await pair.function())
    offer = await node.take()
    async with watching(a, task) as stream:
        assert (await event(stream))["event"] == "state"
        await node.progress(offer.lease, 40, message="half way")
        early = asyncio.create_task(until_end(stream))
        async with watching(a, task) as other:
            while (seen := await event(other))["event"] != "progress":
                pass
            assert msgspec.json.decode(seen["data"])["progress"] == 40
            await node.finish(offer.lease, status=200, body=b"done")
            late = await until_end(other)
        seen_early = await early
    assert Counter(one["event"] for one in seen_early) >= Counter(["progress", "end"])
    assert Counter(one["event"] for one in seen_early)["progress"] == 1
    numbers = [int(one["id"].rpartition("-")[2]) for one in seen_early if "id" in one]
    assert numbers == sorted(set(numbers))
    assert msgspec.json.decode(late[-1]["data"]) == {"state": "finished", "status": 200, "error": None}


async def test_nodes_are_shown_wherever_they_are(pair: Pair) -> None:
    """A list at A shows a node of B as connected, with its credit; and no more when it has gone."""
    a, node = pair.api(pair.a), await pair.node(pair.b)
    (shown,) = (await a("GET", "/v1/node/list")).json()
    assert (shown["hash"], shown["available"], shown["credit"]["slots"]) == (node.id, True, 8)
    await node.ws.close()
    async with asyncio.timeout(SECONDS):
        while (await a("GET", f"/v1/node/{node.id}")).json()["credit"] is not None:
            await asyncio.sleep(0.02)


async def test_removed_here_closed_there(pair: Pair) -> None:
    """A node that is removed at A loses its session at B at once, and its task goes back to the queue."""
    a, node = pair.api(pair.a), await pair.node(pair.b)
    task = await a.task(await pair.function())
    await node.take()
    assert (await a("DELETE", f"/v1/node/{node.id}")).status == 204
    await node.receive(DispatcherGoodbye)
    other = await pair.node(pair.a)
    assert (await other.receive(Offer)).lease.task == task


async def test_a_node_moves_with_what_it_runs(pair: Pair) -> None:
    """A is killed while its node runs a task: the node goes on at B, and the outcome is recorded, once."""
    node = await pair.node(pair.a)
    b = pair.api(pair.b)
    task = await b.task(await pair.function(retries=0))
    offer = await node.take()
    await store_has(b, task, "accepted")
    await pair.a.kill()
    moved = await moves(node, b, offer)
    await moved.finish(offer.lease, status=200, body=b"once")
    assert (await b("GET", f"/v1/task/{task}/result")).body == b"once"
    shown = (await b("GET", f"/v1/task/{task}")).json()
    assert (shown["attempt"], shown["status"]) == (1, 200)


@pytest.mark.long
async def test_what_a_dead_dispatchers_node_held_goes_back(pair: Pair) -> None:
    """A and its node are gone for good: B takes over what the node held, and another node runs it."""
    node = await pair.node(pair.a)
    b = pair.api(pair.b)
    task = await b.task(await pair.function())
    await node.take()
    await store_has(b, task, "accepted")
    adopted = asyncio.create_task(pair.b.logged("took over what nodes of another dispatcher hold"))
    lost = asyncio.create_task(pair.b.logged("attempt lost", task=task))
    await pair.a.kill()
    await adopted
    await lost
    other = await pair.node(pair.b)
    offer = await other.run(body=b"again")
    assert (offer.lease.task, offer.lease.attempt) == (task, 2)


@pytest.mark.long
async def test_a_dispatcher_that_stood_still_begins_anew(pair: Pair) -> None:
    """A is frozen until B takes it for dead: what its node held is B's to watch over, and is lost once, not twice."""
    node = await pair.node(pair.a)
    b = pair.api(pair.b)
    task = await b.task(await pair.function())
    offer = await node.take()
    await store_has(b, task, "accepted")
    adopted = asyncio.create_task(pair.b.logged("took over what nodes of another dispatcher hold"))
    pair.a.signal(signal.SIGSTOP)
    await adopted
    anew = asyncio.create_task(pair.a.logged("the other dispatchers took this one for dead, its nodes come anew"))
    pair.a.signal(signal.SIGCONT)
    await anew
    moved = await moves(node, b, offer)
    await moved.finish(offer.lease, status=200, body=b"once")
    shown = (await b("GET", f"/v1/task/{task}")).json()
    assert (shown["attempt"], shown["status"]) == (1, 200)


async def test_a_stop_lets_nodes_go_one_after_the_other(pair: Pair) -> None:
    """Each node of A is told to go, and for how long to stay away; what one did not take B offers anew."""
    nodes = [await pair.node(pair.a) for _ in range(20)]
    task = await pair.api(pair.a).task(await pair.function())
    offers = {asyncio.create_task(node.receive(Offer)): node for node in nodes}
    (offered,), pending = await asyncio.wait(offers, return_when=asyncio.FIRST_COMPLETED)
    for waiting in pending:
        waiting.cancel()
    assert offered.result().lease.task == task
    pair.a.signal(signal.SIGTERM)
    goodbyes = await asyncio.gather(*(node.receive(DispatcherGoodbye) for node in nodes))
    assert all(0 < goodbye.retry_after < 1 for goodbye in goodbyes)
    await asyncio.gather(*(node.ws.close() for node in nodes))
    assert await pair.a.ended() == 0
    moved = Node(pair.api(pair.b), offers[offered].id, offers[offered].credential)
    await moved.open()
    assert (await moved.run(body=b"done")).lease.task == task


async def moves(node: Node, to: Api, offer: Offer) -> Node:
    """Let a node open a session elsewhere, with the lease that it holds."""
    moved = Node(to, node.id, node.credential)
    welcome = await moved.open(held=[Held(offer.lease, finished=False)])
    assert welcome.keep == [offer.lease]
    return moved


async def store_has(api: Api, task: str, state: str) -> None:
    """Wait until a task is in a state."""
    async with asyncio.timeout(SECONDS):
        while (await api("GET", f"/v1/task/{task}")).json()["state"] != state:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def watching(api: Api, task: str) -> AsyncIterator[aiohttp.StreamReader]:
    """Open the event stream of a task, behind its first line."""
    async with api.http.get(f"{api.url}/v1/task/{task}/events", headers={"Authorization": api.token}) as answer:
        assert await answer.content.readuntil(b"\n\n") == b"retry: 1000\n\n"
        yield answer.content


async def event(stream: aiohttp.StreamReader) -> dict[str, str]:
    """Read the next event."""
    async with asyncio.timeout(SECONDS):
        lines = (await stream.readuntil(b"\n\n")).decode().strip().split("\n")
    return {name: value for name, _, value in (line.partition(": ") for line in lines)}


async def until_end(stream: aiohttp.StreamReader) -> list[dict[str, str]]:
    """Read to the end."""
    events = [await event(stream)]
    while events[-1]["event"] != "end":
        events.append(await event(stream))
    return events


async def test_what_runs_there_counts_here(pair: Pair) -> None:
    """The tasks that an account may have with nodes are those of both dispatchers, and one that ends makes room."""
    a, b = pair.api(pair.a), pair.api(pair.b)
    for api, limits in ((a, {"running": 1}), (b, {"queueLength": 100})):  # so that both have seen the first one
        assert (await api("PATCH", "/v1/account/default", content={"limits": limits})).status == 204
    at_a = await pair.node(pair.a, slots=1)
    function = await pair.function()
    await a.task(function)
    first = await at_a.take()
    at_b = await pair.node(pair.b)
    second = await a.task(function)
    guests = (await a("POST", "/v1/account", content={"name": "guests"})).json()["id"]
    made = await a("POST", "/v1/token", content={"name": "t", "scopes": ["tasks", "functions"], "account": guests})
    guest = Api(pair.http, pair.a.url, made.json()["token"], NO_STORE)
    # What A tells is heard in its order: the guest's task comes after the second one, and goes past it.
    other = await guest.task(await guest.function())
    assert (await at_b.take()).lease.task == other
    await at_a.finish(first.lease, status=200)
    assert (await at_b.take()).lease.task == second


async def test_what_no_node_of_either_offers_is_named(tmp_path: Path) -> None:
    """A requirement that a node of the other dispatcher meets is not said to be missing."""
    async with two(tmp_path, FERND_QUEUE_WAIT="4") as pair:
        a = pair.api(pair.a)
        nodes = [
            await pair.node(pair.a, capabilities=Capabilities(16, 8192)),
            await pair.node(pair.b, capabilities=Capabilities(8, 8192)),
        ]
        function = await pair.function()
        wanted = {"cpuCount": 16, "memSize": 16_384}
        assert (await a("POST", f"/v1/function/{function}/capabilities", content=wanted)).status == 204
        answer = await a("POST", f"/v1/task/{function}", headers={"Prefer": "wait=30"})
        detail = answer.problem(503, "NO_CAPABLE_NODE")["detail"]
        assert "no node offers memSize 16384 MiB" in detail
        assert not any(node.ws.closed for node in nodes)
