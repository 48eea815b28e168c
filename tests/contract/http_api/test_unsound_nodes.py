"""A node that speaks nonsense, out of turn, or for another one harms nobody but its own session."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket

import aiohttp
import pytest
from structlog.testing import capture_logs

from agent.protocol import (
    FRAME_LIMIT,
    SUBPROTOCOL,
    Capabilities,
    Credit,
    CreditNotice,
    DispatcherGoodbye,
    GiveBack,
    NodeHello,
    NodeMessage,
    encode,
)
from dispatcher import wire
from tests.contract.http_api.api import SECONDS, Api, Node


async def connect(api: Api, node_id: str, credential: str) -> aiohttp.ClientWebSocketResponse:
    """Open a session that has said nothing yet."""
    return await api.http.ws_connect(
        f"{api.url}/v1/node/{node_id}/session", protocols=(SUBPROTOCOL,), headers={"Authorization": credential}
    )


async def closed(ws: aiohttp.ClientWebSocketResponse) -> int | None:
    """Wait until the dispatcher has closed a session, and give its code."""
    async with asyncio.timeout(SECONDS):
        while not ws.closed:
            await ws.receive()
    return ws.close_code


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"", 1002),
        (b"\xc1", 1002),
        (b"\x90", 1002),
        (b"\x91" * 100_000, 1002),
        (b"\xdd\xff\xff\xff\xff", 1002),
        (encode([NodeHello("v", Capabilities(1, 1), Credit())])[:-1], 1002),
        (encode([NodeHello("v", Capabilities(1, 1), Credit())] * 2), 1002),
        (b"\x91\x81\xa4type\xd9\xc8" + "\u20ac".encode() * 66 + b"xx", 1002),
        ("text", 1003),
    ],
)
async def test_garbage_ends_the_session_with_a_code(api: Api, frame: bytes | str, code: int) -> None:
    """Whatever the frame is, the node is told by a close code, and nothing is logged as an error."""
    ws = await connect(api, *await api.join())
    with capture_logs() as logs:
        await (ws.send_str(frame) if isinstance(frame, str) else ws.send_bytes(frame))
        assert await closed(ws) == code
    assert [entry for entry in logs if entry["log_level"] == "error"] == []


async def test_oversized_frame_ends_the_session(api: Api) -> None:
    """It is not read to its end: the close code may be lost on a connection that is still being written to."""
    ws = await connect(api, *await api.join())
    with capture_logs() as logs:
        with contextlib.suppress(ConnectionError):
            await ws.send_bytes(bytes(FRAME_LIMIT + 1))
        assert await closed(ws) in {1009, 1006}
        assert (await api("GET", "/healthz")).status == 200
    assert [entry for entry in logs if entry["log_level"] == "error"] == []


@pytest.mark.parametrize(
    "hello",
    [
        NodeHello("v", Capabilities(math.inf, 1), Credit()),
        NodeHello("v", Capabilities(1, 2**64 - 1), Credit()),
        NodeHello("v", Capabilities(1, 1, math.inf), Credit()),
        NodeHello("v", Capabilities(1, 1), Credit(cpu=math.nan)),
        NodeHello("v" * 1_000_000, Capabilities(1, 1), Credit()),
    ],
)
async def test_what_cannot_be_shown_is_not_taken(api: Api, hello: NodeMessage) -> None:
    """Nodes are listed and shown as before, during such a session and after it."""
    node_id, credential = await api.join()
    ws = await connect(api, node_id, credential)
    await ws.send_bytes(encode([hello]))
    assert await closed(ws) == 1002
    shown = await api("GET", f"/v1/node/{node_id}")
    assert (shown.json()["version"], shown.json()["available"]) == ("", False)
    assert (await api("GET", "/v1/node/list")).json() == [shown.json()]


async def test_lease_of_another_node_does_nothing(api: Api, node: Node) -> None:
    """Whatever a node says with a lease that is not its own, the node whose lease it is can go on."""
    task_id = await api.task(await api.function())
    offer = await node.take()
    other = Node(api, *await api.join())
    await other.open(slots=0)
    await other.progress(offer.lease, 99)
    await other.send(GiveBack(offer.lease, "mine", True, Credit()))
    assert (await other.finish(offer.lease, status=200, body=b"forged")).recorded is False
    shown = (await api("GET", f"/v1/task/{task_id}")).json()
    assert (shown["progress"], shown["node"], shown["finished"]) == (0, node.id, None)
    # The dispatcher still knows the lease: its holder can give the task back, and it goes to somebody else.
    await node.send(GiveBack(offer.lease, "no more", False, Credit()))
    await other.send(CreditNotice(Credit(8, 8192, 8)))
    again = await other.take()
    assert (again.lease.task, again.lease.attempt) == (task_id, 1)
    await other.ws.close()


@pytest.mark.parametrize("status", [0, 101, 199])
async def test_answer_that_nobody_can_be_given_is_none(api: Api, node: Node, status: int) -> None:
    """An answer without a status that answers have is told to the caller as what it is."""
    task_id = await api.task(await api.function())
    offer = await node.take()
    assert (await node.finish(offer.lease, status=status, body=b"x")).recorded
    (await api("GET", f"/v1/task/{task_id}/result")).problem(502, "BAD_RESPONSE")


async def test_removed_node_that_has_not_said_hello_gets_no_work(api: Api) -> None:
    """Its session was opened with a good credential, and ends with the removal all the same."""
    node_id, credential = await api.join()
    ws = await connect(api, node_id, credential)
    assert (await api("DELETE", f"/v1/node/{node_id}")).status == 204
    assert await closed(ws) == 1001


async def test_removed_node_is_not_shown_as_connected(api: Api, node: Node) -> None:
    """Nor is it when it is restored, before it comes back."""
    assert (await api("DELETE", f"/v1/node/{node.id}")).status == 204
    await node.receive(DispatcherGoodbye)
    assert (await api("PATCH", f"/v1/node/{node.id}")).status == 204
    shown = (await api("GET", f"/v1/node/{node.id}")).json()
    assert (shown["available"], shown["reason"], shown["credit"]) == (False, "not connected", None)


async def test_earlier_credential_ends_with_its_session(api: Api, node: Node) -> None:
    """Who joins a node again turns out whoever spoke with the credential that it had."""
    await api.join(node.id)
    await node.receive(DispatcherGoodbye)
    assert await closed(node.ws) == 1001


async def test_session_is_opened_by_get_alone(api: Api) -> None:
    """A HEAD that asks for a WebSocket gets none."""
    node_id, credential = await api.join()
    answer = await api(
        "HEAD",
        f"/v1/node/{node_id}/session",
        headers={"Authorization": credential, "Upgrade": "websocket", "Connection": "Upgrade"},
    )
    assert (answer.status, answer.headers["Allow"]) == (405, "GET")


async def test_node_that_does_not_read_is_shed(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does not take off the wire is not kept without bound: its session ends, and others have its tasks."""
    monkeypatch.setattr(wire, "SEND_SECONDS", 0.2)
    node_id, credential = await api.join()
    ws = await connect(api, node_id, credential)
    ws.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await ws.send_bytes(encode([NodeHello("v", Capabilities(64, 65536), Credit(64, 65536, 64))]))
    await ws.receive_bytes()
    function_id, body = await api.function(), b'"' + b"x" * 200_000 + b'"'
    with capture_logs() as logs:
        async with asyncio.timeout(SECONDS):
            while (await api("GET", f"/v1/node/{node_id}")).json()["available"]:
                # In the end more than all buffers on the way hold.
                await api("POST", f"/v1/task/{function_id}", body=body)
    assert [entry["reason"] for entry in logs if entry["event"] == "session ended"] == ["the node reads too slowly"]
    other = Node(api, *await api.join())
    await other.open()
    async with asyncio.timeout(SECONDS):
        # Tasks that came too late for the first node go at once. Those that it was offered follow when the answer to
        # their offer is due.
        while (offer := await other.run()).lease.attempt == 1:
            await other.send(CreditNotice(Credit(8, 8192, 8, offers_seen=offer.number)))
    await ws.close()
