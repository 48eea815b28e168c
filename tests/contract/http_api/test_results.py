"""What a node answers reaches the caller, at once or when it is asked for."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from agent.protocol import Ending, Log
from dispatcher import drafts
from dispatcher.routes import results
from dispatcher.store.records import Task
from tests.contract.http_api.api import Api, Node


async def test_result_is_the_functions_own_answer(api: Api, node: Node) -> None:
    """Status, repeated headers and body come through; hop-by-hop headers do not; the state is named."""
    task_id = await api.task(await api.function())
    early = await api("GET", f"/v1/task/{task_id}/result")
    early.problem(404, "NOT_FINISHED")
    assert int(early.headers["Retry-After"]) > 0
    await node.run(
        status=418,
        headers=[
            ("Content-Type", "text/x-tea"), ("X-A", "1"), ("X-A", "2"), ("X-Task-State", "fake"),
            ("Connection", "X-Hop"), ("X-Hop", "1"), ("Content-Length", "7"), ("X-Bad", "a\r\nSet-Cookie: b"),
        ],
        body=b"short and stout",
    )  # fmt: skip
    result = await api("GET", f"/v1/task/{task_id}/result")
    assert (result.status, result.body) == (418, b"short and stout")
    assert result.headers.getall("X-A") == ["1", "2"]
    assert result.headers.getall("X-Task-State") == ["finished"]
    assert result.headers["X-Task-Id"] == task_id
    assert result.headers["Content-Type"] == "text/x-tea"
    assert result.headers["Content-Length"] == "15"
    assert not {"X-Hop", "X-Bad", "Set-Cookie"} & set(result.headers)
    head = await api("HEAD", f"/v1/task/{task_id}/result")
    assert (head.status, head.body, head.headers["Content-Length"]) == (418, b"", "15")
    task = (await api("GET", f"/v1/task/{task_id}")).json()
    assert (task["status"], task["state"], task["progress"], task["error"]) == (418, "finished", 100, None)
    assert task["node"] == node.id
    assert all(isinstance(task[key], str) for key in ("issued", "assigned", "finished"))


@pytest.mark.parametrize("status", [204, 304])
async def test_statuses_without_a_body_have_none(api: Api, node: Node, status: int) -> None:
    """A body that came with 204 or 304 is left out, and the connection stays usable."""
    task_id = await api.task(await api.function())
    await node.run(status=status, headers=[("ETag", '"x"')], body=b"no")
    result = await api("GET", f"/v1/task/{task_id}/result")
    assert (result.status, result.body, result.headers["ETag"]) == (status, b"", '"x"')


async def test_answer_without_a_content_type_is_bytes(api: Api, node: Node) -> None:
    """A function that names no type gets the type of plain bytes, and no guess."""
    task_id = await api.task(await api.function())
    await node.run(body=b"<html>")
    result = await api("GET", f"/v1/task/{task_id}/result")
    assert (result.headers["Content-Type"], result.body) == ("application/octet-stream", b"<html>")


@pytest.mark.parametrize(
    ("ending", "status", "code"),
    [
        ("timeout", 504, "TIMEOUT"),
        ("oom", 500, "OOM_KILLED"),
        ("crash", 502, "CRASHED"),
        ("never_ready", 502, "NEVER_READY"),
        ("bad_response", 502, "BAD_RESPONSE"),
        ("result_too_large", 502, "RESULT_TOO_LARGE"),
        ("image_unavailable", 503, "IMAGE_UNAVAILABLE"),
    ],
)
async def test_task_without_an_answer_has_a_problem_as_its_result(
    api: Api, node: Node, ending: Ending, status: int, code: str
) -> None:
    """Each ending has its status and code, in the result, in the task and in the list."""
    task_id = await api.task(await api.function())
    offer = await node.take()
    await node.finish(offer.lease, ending=ending, detail="exit code 3")
    result = await api("GET", f"/v1/task/{task_id}/result")
    assert result.problem(status, code)["detail"] == "exit code 3"
    assert result.headers["X-Task-State"] == "finished"
    task = (await api("GET", f"/v1/task/{task_id}")).json()
    assert (task["error"], task["status"], task["state"]) == (code, status, "finished")
    assert (await api("GET", "/v1/task/list")).json()[0]["status"] == status


async def test_wait_answers_with_the_result_itself(api: Api, node: Node) -> None:
    """With Prefer: wait the answer to create is the function's, as soon as it is there."""
    function_id = await api.function()
    asked = asyncio.create_task(
        api("POST", f"/v1/task/{function_id}", body=b"hi", headers={"Prefer": 'foo; x="a, wait=1", wait=30'})
    )
    offer = await node.run(status=202, headers=[("X-Mine", "1")], body=b"done")
    answer = await asked
    assert (answer.status, answer.body, answer.headers["X-Mine"]) == (202, b"done", "1")
    assert answer.headers["X-Task-Id"] == offer.lease.task
    assert answer.headers["X-Task-State"] == "finished"
    assert answer.headers["Preference-Applied"] == "wait=30"


async def test_wait_that_is_too_short_gives_the_id(api: Api) -> None:
    """When the time is over the caller gets 201 and the id, and from /result NOT_FINISHED."""
    function_id = await api.function()
    answer = await api("POST", f"/v1/task/{function_id}", headers={"Prefer": "wait=1"})
    assert answer.status == 201
    task_id = answer.json()["id"]
    (await api("GET", f"/v1/task/{task_id}/result", headers={"Prefer": "wait=1"})).problem(404, "NOT_FINISHED")


async def test_wait_counts_from_the_call(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time until a task is in the store, before which it has no id to be told, is a part of the wait."""
    monkeypatch.setattr(drafts, "WRITE_SECONDS", 0.5)
    waits: list[float] = []

    async def noted(app: web.Application, account: str, task_id: str, seconds: float) -> Task | None:
        waits.append(seconds)
        return await end_of(app, account, task_id, seconds)

    end_of = results.end_of
    monkeypatch.setattr(results, "end_of", noted)
    answer = await api("POST", f"/v1/task/{await api.function()}", headers={"Prefer": "wait=1"})
    assert (answer.status, answer.headers["Preference-Applied"]) == (201, "wait=1")
    assert [seconds <= 0.5 for seconds in waits] == [True]


async def test_result_can_be_waited_for(api: Api, node: Node) -> None:
    """Prefer: wait on /result answers when the task ends, and at once when it has ended."""
    task_id = await api.task(await api.function())
    offer = await node.take()
    asked = asyncio.create_task(api("GET", f"/v1/task/{task_id}/result", headers={"Prefer": "wait=20"}))
    await node.finish(offer.lease, status=200, body=b"done")
    assert (await asked).body == b"done"
    assert (await api("GET", f"/v1/task/{task_id}/result", headers={"Prefer": "wait=20"})).body == b"done"


async def test_logs_show_what_was_left_out(api: Api, node: Node) -> None:
    """The log is text: its first part, how much is missing, its last part; before the end it is not there."""
    task_id = await api.task(await api.function())
    (await api("GET", f"/v1/task/{task_id}/logs")).problem(404, "NOT_FINISHED")
    await node.run(log=Log(b"first\n", 12, b"last\n"))
    logs = await api("GET", f"/v1/task/{task_id}/logs")
    assert logs.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert logs.body.decode() == "first\n\n\u2026 12 bytes left out \u2026\nlast\n"


async def test_a_function_s_page_is_not_ours(api: Api, node: Node) -> None:
    """A browser that opens a result runs nothing of it in our name, nor takes rules for our origin from it."""
    task_id = await api.task(await api.function())
    told = [("Content-Type", "text/html"), ("Clear-Site-Data", '"*"'), ("Strict-Transport-Security", "max-age=9")]
    offer = await node.take()
    await node.finish(offer.lease, status=200, headers=told, body=b"<script>")
    result = await api("GET", f"/v1/task/{task_id}/result")
    assert (result.headers["X-Content-Type-Options"], result.headers["Content-Security-Policy"]) == (
        "nosniff",
        "sandbox",
    )
    assert not {"Clear-Site-Data", "Strict-Transport-Security"} & set(result.headers)
    assert result.body == b"<script>"
