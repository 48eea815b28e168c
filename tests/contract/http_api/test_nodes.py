"""Nodes over HTTP: joined by a token, shown as they are, removed at once, restored."""

from __future__ import annotations

import asyncio
import uuid

import aiohttp
import pytest

from agent.protocol import (
    SUBPROTOCOL,
    Capabilities,
    Credit,
    DispatcherGoodbye,
    DispatcherHeartbeat,
    Load,
    NodeHeartbeat,
    Prewarm,
)
from tests.contract.http_api.api import SECONDS, Api, Node


async def test_node_joins_and_is_shown(api: Api) -> None:
    """A node that joined is listed with every key, before it was ever connected."""
    answer = await api("POST", "/v1/node/join-token", content={"expiresIn": 60})
    assert answer.status == 201
    assert isinstance(answer.json()["expires"], str)
    node_id = str(uuid.uuid4())
    joined = await api(
        "POST",
        f"/v1/node/{node_id}",
        content={"description": "attic"},
        headers={"Authorization": answer.json()["token"]},
    )
    assert (joined.status, list(joined.json())) == (201, ["credential"])
    shown = (await api("GET", f"/v1/node/{node_id}")).json()
    assert (await api("GET", "/v1/node/list")).json() == [shown]
    assert isinstance(shown.pop("joined"), str)
    assert shown == {
        "hash": node_id,
        "description": "attic",
        "available": False,
        "disabled": False,
        "reason": "not connected",
        "capabilities": {"cpuCount": 0, "memSize": 0, "networkLatency": None, "privileged": False, "runtimes": []},
        "credit": None,
        "load": None,
        "running": 0,
        "warm": [],
        "clockOffset": None,
        "version": "",
        "lastContact": None,
    }


async def test_connected_node_shows_what_it_says(api: Api, node: Node) -> None:
    """Capabilities, credit, load and availability are those of its last heartbeat."""
    shown = (await api("GET", f"/v1/node/{node.id}")).json()
    assert (shown["available"], shown["version"], shown["credit"]["slots"]) == (True, "0.1.0", 8)
    assert isinstance(shown["lastContact"], str)
    await node.send(
        NodeHeartbeat(
            1,
            [],
            Capabilities(2, 512, 3.5, privileged=True, runtimes=["runsc"]),
            Credit(1.5, 100, 1),
            Load(12.5, 300, 2),
            available=False,
            reason="on battery",
            warm=["a.1"],
            clock_offset=-250.5,
        )
    )
    await node.receive(DispatcherHeartbeat)
    shown = (await api("GET", f"/v1/node/{node.id}")).json()
    assert shown["capabilities"] == {
        "cpuCount": 2,
        "memSize": 512,
        "networkLatency": 3.5,
        "privileged": True,
        "runtimes": ["runsc"],
    }
    assert shown["credit"] == {"cpu": 1.5, "memory": 100, "slots": 1}
    assert shown["clockOffset"] == -250.5
    assert shown["load"] == {"cpuPercent": 12.5, "memoryFree": 300}
    assert (shown["available"], shown["reason"], shown["running"], shown["warm"]) == (False, "on battery", 2, ["a.1"])


async def test_removed_node_is_cut_off_and_its_task_goes_back(api: Api, node: Node) -> None:
    """DELETE closes the session and lets nobody in again until PATCH; another node gets the task."""
    function_id = await api.function()
    task_id = await api.task(function_id)
    await node.take()
    assert (await api("DELETE", f"/v1/node/{node.id}")).status == 204
    await node.receive(DispatcherGoodbye)
    shown = (await api("GET", f"/v1/node/{node.id}")).json()
    assert (shown["disabled"], shown["available"], shown["reason"]) == (True, False, "removed")
    proof = {"Authorization": node.credential, "Upgrade": "websocket", "Connection": "Upgrade"}
    (await api("GET", f"/v1/node/{node.id}/session", headers=proof)).problem(403, "FORBIDDEN")
    token = (await api("POST", "/v1/node/join-token")).json()["token"]
    (await api("POST", f"/v1/node/{node.id}", headers={"Authorization": token})).problem(403, "FORBIDDEN")
    other = Node(api, *await api.join())
    await other.open()
    offer = await other.take()
    assert (offer.lease.task, offer.lease.attempt) == (task_id, 2)
    await other.ws.close()
    assert (await api("PATCH", f"/v1/node/{node.id}")).status == 204
    assert (await api("GET", f"/v1/node/{node.id}")).json()["disabled"] is False
    await node.open()


async def test_restore_is_all_that_patch_does(api: Api) -> None:
    """PATCH takes `disabled: false` or nothing, and names what it does not take."""
    node_id, _ = await api.join()
    path = f"/v1/node/{node_id}"
    assert (await api("PATCH", path, content={"disabled": False})).status == 204
    for content, field in (({"disabled": True}, "disabled"), ({"disabled": 1}, "disabled"), ({"x": 1}, "x")):
        assert (await api("PATCH", path, content=content)).problem(400, "INVALID")["field"] == field


async def test_node_that_joins_again_gets_another_credential(api: Api) -> None:
    """The old credential ends; the node is the same."""
    node_id, old = await api.join()
    _, new = await api.join(node_id)
    old_node, new_node = Node(api, node_id, old), Node(api, node_id, new)
    with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
        await old_node.open()
    await new_node.open()
    await new_node.ws.close()
    assert len((await api("GET", "/v1/node/list")).json()) == 1


async def test_node_of_another_account_cannot_be_taken(api: Api, stranger: Api) -> None:
    """A join with an id that another account has is a conflict, and changes nothing."""
    node_id, credential = await api.join()
    token = (await stranger("POST", "/v1/node/join-token")).json()["token"]
    (await api("POST", f"/v1/node/{node_id}", headers={"Authorization": token})).problem(409, "CONFLICT")
    node = Node(api, node_id, credential)
    await node.open()
    await node.ws.close()


async def test_only_a_join_token_joins(api: Api) -> None:
    """Neither an account's token nor a made-up one lets a node in; nor does a join token read anything."""
    node_id = str(uuid.uuid4())
    for token in (api.token, "made-up"):
        (await api("POST", f"/v1/node/{node_id}", headers={"Authorization": token})).problem(401, "UNAUTHENTICATED")
    token = (await api("POST", "/v1/node/join-token")).json()["token"]
    (await api("GET", "/v1/node/list", headers={"Authorization": token})).problem(401, "UNAUTHENTICATED")


@pytest.mark.parametrize("node_id", ["x", "1A061CFD-DF01-4B02-A067-5122C5941E15", "%2e%2e", "0" * 32, "a" * 500])
async def test_node_ids_are_uuids(api: Api, node_id: str) -> None:
    """Another shape is 400 where a node names itself and 404 where it is looked for."""
    token = (await api("POST", "/v1/node/join-token")).json()["token"]
    joined = await api("POST", f"/v1/node/{node_id}", headers={"Authorization": token})
    assert joined.problem(400, "INVALID")["field"] == "nodeId"
    (await api("GET", f"/v1/node/{node_id}/session")).problem(400, "INVALID")
    for method in ("GET", "DELETE", "PATCH"):
        (await api(method, f"/v1/node/{node_id}")).problem(404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("content", "field"), [({"expiresIn": 0}, "expiresIn"), ({"expiresIn": 10**9}, "expiresIn"), ({"x": 1}, "x")]
)
async def test_join_tokens_have_bounds(api: Api, content: dict[str, int], field: str) -> None:
    """How long a join token may be good has bounds."""
    assert (await api("POST", "/v1/node/join-token", content=content)).problem(400, "INVALID")["field"] == field


async def test_session_is_a_websocket_of_our_kind(api: Api) -> None:
    """Without an upgrade, or with another subprotocol, the answer is a problem and not a WebSocket."""
    node_id, credential = await api.join()
    path, proof = f"/v1/node/{node_id}/session", {"Authorization": credential}
    assert (await api("GET", path, headers=proof)).problem(400, "INVALID")["field"] == "Upgrade"
    upgrade = proof | {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Protocol": "chat"}
    assert (await api("GET", path, headers=upgrade)).problem(400, "INVALID")["field"] == "Sec-WebSocket-Protocol"
    broken = upgrade | {"Sec-WebSocket-Protocol": SUBPROTOCOL}
    (await api("GET", path, headers=broken)).problem(400, "INVALID")


async def test_nodes_come_in_pages(api: Api) -> None:
    """Every node comes once, by id."""
    ids = sorted([(await api.join())[0] for _ in range(3)])
    first = await api("GET", "/v1/node/list?limit=2")
    assert [found["hash"] for found in first.json()] == ids[:2]
    async with asyncio.timeout(SECONDS):
        second = await api("GET", first.headers["Link"].partition(">")[0].lstrip("<"))
    assert [found["hash"] for found in second.json()] == ids[2:]


async def test_what_is_kept_ready(api: Api, node: Node) -> None:
    """A node hears at once which functions want containers kept ready, and which do so no more."""
    created = await api("POST", "/v1/function", content={"name": "hot", "type": "DOCKER", "image": "hot", "warm": 2})
    function = created.json()["id"]
    heard = await node.receive(Prewarm)
    assert [(each.key, each.warm) for each in heard.revisions] == [(f"{function}.1", 2)]
    await api("PATCH", f"/v1/function/{function}", content={"env": {"A": "1"}})
    assert [each.key for each in (await node.receive(Prewarm)).revisions] == [f"{function}.2"]
    await node.ws.close()
    await node.open()
    assert [each.key for each in (await node.receive(Prewarm)).revisions] == [f"{function}.2"], "a new session"
    await api("DELETE", f"/v1/function/{function}")
    assert (await node.receive(Prewarm)).revisions == []
