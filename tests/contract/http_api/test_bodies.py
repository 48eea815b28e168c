"""Bodies that are too large for the session, between node and dispatcher."""

from __future__ import annotations

import asyncio
import hashlib

import msgspec

from tests.contract.http_api.api import SECONDS, Api, Node, pieces, whole


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
    assert (await api("PUT", f"{base}/result", body=answered, headers=proof | whole(answered))).status == 204
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
    path, proof = await _upload_of(api, node)
    large = b"x" * (2 * 1024 * 1024 + 1)
    (await api("PUT", path, body=large, headers=proof | whole(large))).problem(413, "TOO_LARGE")
    (await api("PUT", path, body=pieces(33), headers=proof | whole(b"x"))).problem(413, "TOO_LARGE")


async def test_an_upload_goes_on_where_it_broke_off(api: Api, node: Node) -> None:
    """What came before a break is kept; a wrong place is told the right one; the whole counts once and stays."""
    path, proof = await _upload_of(api, node)
    result = bytes(range(256)) * 4000
    _reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    lines = {"Host": "x", "Content-Length": str(len(result))} | proof | whole(result)
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    writer.write(f"PUT {path} HTTP/1.1\r\n{head}\r\n".encode() + result[:600_000])
    await writer.drain()
    async with asyncio.timeout(SECONDS):
        while (kept := await _kept(api, path, proof)) == 0:
            pass
    writer.close()
    await writer.wait_closed()

    wrong = await api("PUT", path, body=result, headers=proof | whole(result))
    assert wrong.problem(416, "WRONG_OFFSET")["field"] == "X-Fernd-Offset"
    answer = wrong
    async with asyncio.timeout(SECONDS):
        while answer.status == 416:  # the broken connection may still bring what was under way
            kept = int(answer.headers["X-Fernd-Offset"])
            rest = proof | whole(result) | {"X-Fernd-Offset": str(kept)}
            answer = await api("PUT", path, body=result[kept:], headers=rest)
    assert answer.status == 204
    assert 0 < kept <= 600_000
    assert (await api("PUT", path, body=result, headers=proof | whole(result))).status == 204
    assert await _kept(api, path, proof) == len(result)


async def test_an_upload_with_another_hash_is_dropped(api: Api, node: Node) -> None:
    """Bytes that are not what they say count for nothing, and the upload begins anew."""
    path, proof = await _upload_of(api, node)
    assert (await api("PUT", path, body=b"right", headers=proof | whole(b"wrong"))).problem(422, "CORRUPT")
    assert await _kept(api, path, proof) == 0
    assert (await api("PUT", path, body=b"right", headers=proof | whole(b"right"))).status == 204


async def test_an_upload_says_what_it_is(api: Api, node: Node) -> None:
    """Without its size or its hash, or with a wrong number, an upload is refused, and told which it is."""
    path, proof = await _upload_of(api, node)
    for header, value in (("X-Fernd-Size", "-1"), ("X-Fernd-Sha256", "abc"), ("X-Fernd-Offset", "one")):
        refused = await api("PUT", path, body=b"x", headers=proof | whole(b"x") | {header: value})
        assert refused.problem(400, "INVALID")["field"] == header


async def test_an_input_is_fetched_from_where_it_broke_off(api: Api, node: Node) -> None:
    """A range that is open at its end gives the rest; any other is passed over, as RFC 9110 allows."""
    body = bytes(range(256)) * 3000
    task_id = await api.task(await api.function(), body=body)
    offer = await node.take()
    proof = {"Authorization": node.credential, "X-Fernd-Lease": offer.lease.header()}
    path = f"/v1/node/{node.id}/task/{task_id}/input"
    part = await api("GET", path, headers=proof | {"Range": "bytes=300000-"})
    assert (part.status, part.body) == (206, body[300_000:])
    assert part.headers["Content-Range"] == f"bytes 300000-{len(body) - 1}/{len(body)}"
    for value in ("bytes=9999999-", "bytes=0-5", "lines=4-"):
        other = await api("GET", path, headers=proof | {"Range": value})
        assert (other.status, other.body) == (200, body)


async def _upload_of(api: Api, node: Node) -> tuple[str, dict[str, str]]:
    """Let the node take a task; give the path of its result and what proves that it may upload it."""
    task_id = await api.task(await api.function())
    offer = await node.take()
    proof = {"Authorization": node.credential, "X-Fernd-Lease": offer.lease.header()}
    return f"/v1/node/{node.id}/task/{task_id}/result", proof


async def _kept(api: Api, path: str, proof: dict[str, str]) -> int:
    shown = await api("HEAD", path, headers=proof)
    assert shown.status == 200
    return int(shown.headers["X-Fernd-Offset"])
