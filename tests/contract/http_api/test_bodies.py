"""Bodies that are too large for the session, between node and dispatcher."""

from __future__ import annotations

import hashlib

import msgspec

from tests.contract.http_api.api import Api, Node, pieces


async def test_large_bodies_go_beside_the_session_both_ways(api: Api, node: Node) -> None:
    """A large input is fetched and a large result uploaded by the node, each byte for byte."""
    function_id = await api.function()
    sent, answered = bytes(range(256)) * 3000, b"result" * 200_000
    task_id = await api.task(function_id, body=sent, headers={"Content-Type": "image/png"})
    offer = await node.take()
    assert (offer.body, offer.body_size) == (None, len(sent))
    base = f"/v1/node/{node.id}/task/{task_id}"
    proof = {"Authorization": node.credential, "X-Fernd-Lease": offer.lease.header()}
    fetched = await api("GET", f"{base}/input", headers=proof)
    assert (fetched.status, fetched.body) == (200, sent)
    assert (await api("PUT", f"{base}/result", body=answered, headers=proof)).status == 204
    await node.finish(
        offer.lease, status=200, body=None, body_size=len(answered), body_sha256=hashlib.sha256(answered).hexdigest()
    )
    result = await api("GET", f"/v1/task/{task_id}/result")
    assert (result.status, result.body) == (200, answered)
    head = await api("HEAD", f"/v1/task/{task_id}/result")
    assert (head.body, head.headers["Content-Length"]) == (b"", str(len(answered)))


async def test_large_json_is_checked_and_passed_on(api: Api, node: Node) -> None:
    """JSON that is too large for a message is checked, too, and reaches the node whole."""
    body = msgspec.json.encode(["x" * 1000] * 500)
    task_id = await api.task(await api.function(), body=body, headers={"Content-Type": "application/json"})
    offer = await node.take()
    proof = {"Authorization": node.credential, "X-Fernd-Lease": offer.lease.header()}
    assert (await api("GET", f"/v1/node/{node.id}/task/{task_id}/input", headers=proof)).body == body


async def test_foreign_leases_open_no_door(api: Api, node: Node) -> None:
    """Another node cannot fetch or upload with a lease, nor anybody with a wrong or badly written one."""
    task_id = await api.task(await api.function(), body=b"x" * 300_000)
    offer = await node.take()
    other_id, other_credential = await api.join()
    stolen = {"Authorization": other_credential, "X-Fernd-Lease": offer.lease.header()}
    wrong = {"Authorization": node.credential, "X-Fernd-Lease": "1:" + "0" * 32}
    bad = {"Authorization": node.credential, "X-Fernd-Lease": "1:" + "x" * 32}
    for method, what in (("GET", "input"), ("PUT", "result")):
        path = f"/task/{task_id}/{what}"
        (await api(method, f"/v1/node/{other_id}{path}", headers=stolen)).problem(409, "CONFLICT")
        (await api(method, f"/v1/node/{node.id}{path}", headers=wrong)).problem(409, "CONFLICT")
        found = (await api(method, f"/v1/node/{node.id}{path}", headers=bad)).problem(400, "INVALID")
        assert found["field"] == "X-Fernd-Lease"
        (await api(method, f"/v1/node/{other_id}{path}", headers=wrong)).problem(401, "UNAUTHENTICATED")


async def test_upload_over_the_limit_is_refused(api: Api, node: Node) -> None:
    """A result over the limit is 413, announced or not."""
    task_id = await api.task(await api.function())
    offer = await node.take()
    proof = {"Authorization": node.credential, "X-Fernd-Lease": offer.lease.header()}
    path = f"/v1/node/{node.id}/task/{task_id}/result"
    (await api("PUT", path, body=b"x" * (2 * 1024 * 1024 + 1), headers=proof)).problem(413, "TOO_LARGE")
    (await api("PUT", path, body=pieces(33), headers=proof)).problem(413, "TOO_LARGE")
