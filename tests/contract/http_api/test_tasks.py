"""Tasks over HTTP: what is asked reaches the node, and is listed, shown and cancelled."""

from __future__ import annotations

import asyncio

import pytest
from yarl import URL

from agent.protocol import Abandon, Credit, Held, Log, Spans
from tests.contract.http_api.api import SECONDS, Api, Node, pieces

HEX = "0123456789abcdef01234567"


async def test_new_task_is_shown_as_the_seed_shows_it(api: Api) -> None:
    """Every key of the seed is there, with its type, and null where nothing has happened yet."""
    function_id = await api.function()
    await api(
        "POST",
        f"/v1/function/{function_id}/capabilities",
        content={"timeout": 33, "cpuCount": 2, "memSize": 64, "networkLatency": 0.5, "privileged": True},
    )
    created = await api("POST", f"/v1/task/{function_id}", content={"name": "John"})
    task_id = created.json()["id"]
    shown = await api("GET", f"/v1/task/{task_id}")
    assert created.status == 201
    assert created.json() == {"id": task_id}
    assert created.headers["Location"] == f"/v1/task/{task_id}"
    assert shown.status == 200
    assert shown.headers["Content-Type"] == "application/json"
    task = shown.json()
    assert isinstance(task.pop("issued"), str)
    assert task == {
        "id": task_id,
        "functionId": function_id,
        "assigned": None,
        "finished": None,
        "progress": 0,
        "status": 0,
        "state": "queued",
        "phase": None,
        "attempt": 1,
        "node": None,
        "timeout": 33,
        "capabilities": {"cpuCount": 2, "memSize": 64, "networkLatency": 0.5, "privileged": True},
        "error": None,
        "ending": None,
        "detail": None,
        "cold": None,
        "spans": None,
    }
    listed = await api("GET", "/v1/task/list")
    assert [set(entry) for entry in listed.json()] == [{"id", "issued", "progress", "status"}]


async def test_request_reaches_the_node_byte_for_byte(api: Api, node: Node) -> None:
    """Query string, body and end-to-end headers arrive as sent; what is the dispatcher's own stays behind."""
    function_id = await api.function()
    query = "a=1&b=%7e+x&&c&a=%2F%zz"
    body = bytes(range(256))
    async with asyncio.timeout(SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(
            f"POST /v1/task/{function_id}?{query} HTTP/1.1\r\nHost: x\r\nAuthorization: {api.token}\r\n"
            "X-Many: 1\r\ncontent-TYPE: text/weird\r\nX-Many: zwei \u00fc\r\nCookie: a=b\r\n"
            "Connection: close, X-Hop\r\nX-Hop: 1\r\nTE: trailers\r\nProxy-Authorization: x\r\n"
            "Prefer: respond-async\r\nContent-Encoding: gzip\r\nContent-Length: 256\r\n\r\n".encode()
            + body
        )
        assert (await reader.readline()).startswith(b"HTTP/1.1 201")
        writer.close()
        await writer.wait_closed()
    offer = await node.take()
    assert offer.query == query
    assert offer.body == body
    assert offer.headers == [
        ("X-Many", "1"),
        ("content-TYPE", "text/weird"),
        ("X-Many", "zwei \u00fc"),
        ("Content-Encoding", "gzip"),
    ]


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", "application/a+json", "text/json"]
)
@pytest.mark.parametrize("body", [b"{", b"{'a': 1}", b'"\xff"', b"1 2", b"NaN", b"[" * 100_000, b'["' + b"a" * 500_000])
async def test_body_that_says_json_and_is_not_is_refused(api: Api, content_type: str, body: bytes) -> None:
    """A JSON content type with anything else in the body is 400, small or large."""
    function_id = await api.function()
    answer = await api("POST", f"/v1/task/{function_id}", body=body, headers={"Content-Type": content_type})
    assert answer.problem(400, "INVALID")["field"] == "body"
    assert (await api("GET", "/v1/task/list")).json() == []


@pytest.mark.parametrize(
    ("body", "why"),
    [(b'{"a"', "it is cut off"), (b"[" * 100_000, "it is nested too deeply"), (b'"\xff"', "it is not UTF-8")],
)
async def test_body_that_is_not_json_is_told_why(api: Api, body: bytes, why: str) -> None:
    """The sentence is for people, and shows nothing of what reads the body."""
    path = f"/v1/task/{await api.function()}"
    answer = await api("POST", path, body=body, headers={"Content-Type": "application/json"})
    assert answer.problem(400, "INVALID")["detail"] == f"the content type says JSON, and the body is not: {why}"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b""),
        ("application/json", b' {"a": [1, 2.5, "\xc3\xbc"]} '),
        ("application/json", rb'["\ud800", "\\ud800", {"\uDFFF": 1}]'),
        ("application/jsonp", b"{"),
        ("text/plain", b"{"),
        ("application/octet-stream", b"\xff"),
    ],
)
async def test_any_json_or_other_bytes_pass(api: Api, node: Node, content_type: str, body: bytes) -> None:
    """JSON passes unchanged, an empty body is no JSON error, and what does not say JSON is not looked at."""
    function_id = await api.function()
    await api.task(function_id, body=body, headers={"Content-Type": content_type})
    assert (await node.take()).body == body


async def test_input_over_the_limit_is_refused(api: Api) -> None:
    """A body over the limit is 413 whether its length is announced or it comes in pieces; at the limit it passes."""
    function_id = await api.function()
    path = f"/v1/task/{function_id}"
    (await api("POST", path, body=b"x" * (1024 * 1024 + 1))).problem(413, "TOO_LARGE")
    (await api("POST", path, body=pieces(17))).problem(413, "TOO_LARGE")
    assert (await api("POST", path, body=pieces(16))).status == 201


async def test_caller_is_told_to_go_on_only_when_the_body_is_wanted(api: Api) -> None:
    """Expect: 100-continue is answered with the refusal itself where the body would be refused."""
    function_id = await api.function()
    for length, token, first in (
        (5, api.token, b"HTTP/1.1 100"),
        (5, "wrong", b"HTTP/1.1 401"),
        (99_999_999, api.token, b"HTTP/1.1 413"),
    ):
        async with asyncio.timeout(SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
            writer.write(
                f"POST /v1/task/{function_id} HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n"
                f"Expect: 100-continue\r\nContent-Length: {length}\r\n\r\n".encode()
            )
            assert (await reader.readline()).startswith(first)
            if first.endswith(b"100"):
                await reader.readline()
                writer.write(b"hello")
                assert (await reader.readline()).startswith(b"HTTP/1.1 201")
            writer.close()
            await writer.wait_closed()


async def test_idempotency_key_gives_the_first_task_again(api: Api) -> None:
    """The same key and request give the same task; the same key for something else is a conflict."""
    function_id, other_id = await api.function(), await api.function(name="other")
    key = {"Idempotency-Key": "k" * 255, "Content-Type": "text/plain"}
    first = await api.task(function_id, body=b"a", headers=key)
    assert await api.task(function_id, body=b"a", headers=key) == first
    large = key | {"Idempotency-Key": "large"}
    assert await api.task(function_id, body=b"a" * 300_000, headers=large) == await api.task(
        function_id, body=b"a" * 300_000, headers=large
    )
    for path, body in (
        (function_id, b"b"),
        (other_id, b"a"),
        (f"{function_id}?x", b"a"),
        (function_id, b"c" * 300_000),
    ):
        (await api("POST", f"/v1/task/{path}", body=body, headers=key)).problem(409, "CONFLICT")
    for bad in ("", "k" * 256, "a b", "\u00fc"):
        answer = await api("POST", f"/v1/task/{function_id}", headers={"Idempotency-Key": bad})
        assert answer.problem(400, "INVALID")["field"] == "Idempotency-Key"
    assert len((await api("GET", "/v1/task/list")).json()) == 2


async def test_cancel_ends_a_task_once(api: Api, node: Node) -> None:
    """A cancelled task answers 499 CANCELLED; cancelling it again, or one that has finished, is a conflict."""
    function_id = await api.function()
    task_id = await api.task(function_id)
    await node.take()
    assert (await api("DELETE", f"/v1/task/{task_id}")).status == 204
    (await api("DELETE", f"/v1/task/{task_id}")).problem(409, "CONFLICT")
    result = await api("GET", f"/v1/task/{task_id}/result")
    result.problem(499, "CANCELLED")
    assert result.headers["X-Task-State"] == "cancelled"
    task = (await api("GET", f"/v1/task/{task_id}")).json()
    assert (task["state"], task["status"], task["error"]) == ("cancelled", 499, "CANCELLED")


async def test_a_cancelled_task_keeps_its_log(api: Api, node: Node) -> None:
    """The task is cancelled at once, and what the function wrote until then follows when its node tells."""
    task_id = await api.task(await api.function())
    offer = await node.take()
    await node.progress(offer.lease, 40)
    assert (await api("DELETE", f"/v1/task/{task_id}")).status == 204
    assert (await node.receive(Abandon)).reason == "cancelled"
    assert (await api("GET", f"/v1/task/{task_id}/logs")).body == b""
    # A node that was away when the task was cancelled is told so, and not that it has another holder.
    await node.ws.close()
    assert (await node.open(held=[Held(offer.lease, finished=False)])).abandon == []
    told = await node.receive(Abandon)
    assert (told.lease, told.reason) == (offer.lease, "cancelled")
    spans = Spans(running=1500)
    ack = await node.finish(offer.lease, ending="cancelled", log=Log(b"until then\n"), spans=spans, cold=True)
    assert ack.recorded
    assert (await node.finish(offer.lease, ending="cancelled", log=Log(b"again"))).recorded
    assert (await api("GET", f"/v1/task/{task_id}/logs")).body == b"until then\n"
    task = (await api("GET", f"/v1/task/{task_id}")).json()
    assert (task["state"], task["error"], task["cold"]) == ("cancelled", "CANCELLED", True)
    assert task["spans"]["running"] == 1500
    (await api("GET", f"/v1/task/{task_id}/result")).problem(499, "CANCELLED")


async def test_function_without_an_image_runs_nothing(api: Api) -> None:
    """Creating a task of it is 409 NO_RUNNER."""
    (await api("POST", f"/v1/task/{await api.function(image='')}")).problem(409, "NO_RUNNER")


async def test_full_queue_says_when_to_come_back(api: Api) -> None:
    """One task more than may wait is 429 with Retry-After."""
    function_id = await api.function()
    for _ in range(20):
        await api.task(function_id)
    answer = await api("POST", f"/v1/task/{function_id}")
    answer.problem(429, "QUEUE_FULL")
    assert int(answer.headers["Retry-After"]) > 0


async def test_list_comes_in_pages_newest_first(api: Api, node: Node) -> None:
    """Pages follow each other by their Link headers, which keep the filter; every task comes once."""
    wanted, other = await api.function(), await api.function(name="other")
    ids = [await api.task(wanted) for _ in range(5)]
    await api.task(other)
    path, seen = f"/v1/task/list?functionId={wanted}&limit=2&x=%26", []
    for _ in range(10):
        answer = await api("GET", path)
        seen += [entry["id"] for entry in answer.json()]
        assert answer.status == 200
        if "Link" not in answer.headers:
            break
        link, _, relation = answer.headers["Link"].partition(">; ")
        assert relation == 'rel="next"'
        path = link.removeprefix("<")
        assert {"functionId", "limit", "x"} < set(URL(path, encoded=True).query)
    assert seen == ids[::-1]


async def test_list_can_be_narrowed_to_a_state(api: Api, node: Node) -> None:
    """Each state of a task's life, phases too, finds the tasks that are in it."""
    function_id = await api.function()
    finished = await api.task(function_id)
    await node.run()
    running = await api.task(function_id)
    offer = await node.take()
    await node.progress(offer.lease, 1)
    cancelled = await api.task(function_id)
    await api("DELETE", f"/v1/task/{cancelled}")

    async def ids(state: str) -> list[str]:
        return [entry["id"] for entry in (await api("GET", f"/v1/task/list?state={state}")).json()]

    async with asyncio.timeout(SECONDS):
        while await ids("running") != [running]:
            await asyncio.sleep(0.02)
    assert await ids("accepted") == [running]
    assert await ids("finished") == [finished]
    assert await ids("cancelled") == [cancelled]
    assert await ids("queued") == []
    assert await ids("uploading") == []
    task = (await api("GET", f"/v1/task/{running}")).json()
    assert (task["state"], task["phase"], task["progress"]) == ("running", "running", 1)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"), ("limit=1001", "limit"), ("limit=x", "limit"), ("limit=1&limit=2", "limit"),
        ("limit=%d9%a2", "limit"), ("cursor=1", "cursor"), ("cursor=", "cursor"), ("state=done", "state"),
        ("functionId=zz", "functionId"),
    ],
)  # fmt: skip
async def test_wrong_list_parameters_are_named(api: Api, query: str, field: str) -> None:
    """A parameter of a list that cannot be understood is 400 and named."""
    assert (await api("GET", f"/v1/task/list?{query}")).problem(400, "INVALID")["field"] == field


@pytest.mark.parametrize(
    "path", [f"/v1/task/{HEX}", "/v1/task/short", "/v1/task/..%2flist", f"/v1/task/{HEX.upper()}", "/v1/task/%00"]
)
async def test_unknown_and_odd_ids_are_not_found(api: Api, path: str) -> None:
    """An id that is unknown or has the wrong shape is 404 on every call about a task."""
    for method, rest in (
        ("GET", ""), ("DELETE", ""), ("POST", ""), ("GET", "/result"), ("GET", "/logs"), ("GET", "/events"),
    ):  # fmt: skip
        (await api(method, path + rest)).problem(404, "NOT_FOUND")


async def test_strangers_see_nothing(api: Api, stranger: Api, node: Node) -> None:
    """What belongs to another account is 404, whatever is tried."""
    function_id = await api.function()
    task_id = await api.task(function_id)
    await node.run()
    for method, path in (
        ("GET", f"/v1/task/{task_id}"),
        ("GET", f"/v1/task/{task_id}/result"),
        ("GET", f"/v1/task/{task_id}/logs"),
        ("GET", f"/v1/task/{task_id}/events"),
        ("DELETE", f"/v1/task/{task_id}"),
        ("POST", f"/v1/task/{function_id}"),
        ("GET", f"/v1/function/{function_id}"),
        ("DELETE", f"/v1/function/{function_id}"),
        ("GET", f"/v1/node/{node.id}"),
        ("DELETE", f"/v1/node/{node.id}"),
        ("PATCH", f"/v1/node/{node.id}"),
    ):
        (await stranger(method, path)).problem(404, "NOT_FOUND")
    for kind in ("task", "function", "node"):
        assert (await stranger("GET", f"/v1/{kind}/list")).json() == []


async def test_a_finished_task_says_where_its_time_went(api: Api, node: Node) -> None:
    """What happened, by evidence, whether a container was started, and the time in each phase stand on the task."""
    task_id = await api.task(await api.function())
    offer = await node.take()
    spans = Spans(pulling=0, starting=140.5, running=3.25, uploading=1)
    await node.finish(offer.lease, ending="oom", detail="over 64 MiB", cold=True, spans=spans)
    task = (await api("GET", f"/v1/task/{task_id}")).json()
    assert (task["error"], task["ending"], task["detail"], task["cold"]) == ("OOM_KILLED", "oom", "over 64 MiB", True)
    queued = task["spans"].pop("queued")
    assert queued >= 0
    assert task["spans"] == {"pulling": 0, "starting": 140.5, "running": 3.25, "uploading": 1}


async def test_a_node_goes_on_with_the_function_that_it_just_ran(api: Api) -> None:
    """Its container is warm, so the next task of the function goes before that of another, which waited longer."""
    first, second = await api.function("first"), await api.function("second")
    for function_id in (first, second, first):
        await api.task(function_id)
    node = Node(api, *await api.join())
    await node.open(slots=1)
    ran = []
    for seen in (1, 2, 3):
        offer = await node.take()
        ran.append(offer.revision.function)
        await node.finish(offer.lease, status=200, credit=Credit(8, 8192, 1, offers_seen=seen))
    assert ran == [first, first, second]
    await node.ws.close()
