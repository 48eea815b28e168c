"""What an account may have: tasks that wait, tasks with nodes, and what its functions may ask for."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from dispatcher.config import QuotasConfig
from tests.contract.http_api.api import CONFIG, Api, Node, Serve

NONE = dict.fromkeys(("queueLength", "running", "timeout", "cpuCount", "memSize", "privileged"))


async def limit(api: Api, account: str, **limits: Any) -> None:
    answer = await api("PATCH", f"/v1/account/{account}", content={"limits": limits})
    assert answer.status == 204, answer.body


async def test_limits_are_set_shown_and_taken_away(api: Api) -> None:
    """What is not named stays, null takes a limit away; each change leaves a line, and what changes nothing none."""
    assert (await api("GET", "/v1/account/default")).json()["limits"] == NONE
    await limit(api, "default", running=3, cpuCount=2, privileged=False)
    await limit(api, "default", running=None, queueLength=7)
    await limit(api, "default", queueLength=7)
    shown = (await api("GET", "/v1/account/list")).json()[0]["limits"]
    assert shown == NONE | {"cpuCount": 2, "privileged": False, "queueLength": 7}
    lines = (await api("GET", "/v1/audit")).json()
    assert [(line["action"], line["object"], line["detail"]) for line in lines] == [
        ("account.limit", "default", "default: queue_length 7, running none"),
        ("account.limit", "default", "default: running 3, cpu_count 2, privileged no"),
    ]


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        ({"running": 0}, "limits.running"),
        ({"memSize": 255}, "limits.memSize"),
        ({"cpuCount": 0.5}, "limits.cpuCount"),
        ({"queue": 1}, "limits.queue"),
    ],
)
async def test_wrong_limits_are_named(api: Api, limits: dict[str, Any], field: str) -> None:
    """A limit that nobody could keep, and one that there is not."""
    answer = await api("PATCH", "/v1/account/default", content={"limits": limits})
    assert answer.problem(400, "INVALID")["field"] == field


async def test_only_who_administers_sets_limits(api: Api, stranger: Api) -> None:
    """Nobody raises his own, and there is no account that is not there."""
    (await stranger("PATCH", "/v1/account/stranger", content={"limits": {}})).problem(403, "FORBIDDEN")
    (await api("PATCH", "/v1/account/nobody", content={"limits": {}})).problem(404, "NOT_FOUND")


async def test_an_account_fills_its_own_queue_alone(api: Api, stranger: Api) -> None:
    """At its limit an account is told that it is its own; others go on, and so does it when it may have more."""
    await limit(api, "stranger", queueLength=2)
    function = await stranger.function()
    for _ in range(2):
        await stranger.task(function)
    answer = await stranger("POST", f"/v1/task/{function}")
    assert "2 tasks of this account" in answer.problem(429, "QUEUE_FULL")["detail"]
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    waiting = await stranger("POST", f"/v1/task/{function}", headers={"Prefer": "wait=1"})
    assert "2 tasks of this account" in waiting.problem(429, "QUEUE_FULL")["detail"]
    await api.task(await api.function())
    await limit(api, "stranger", queueLength=3)
    await stranger.task(function)


async def test_the_settings_are_the_limit_of_those_that_have_none(serve: Serve) -> None:
    """An account's own limit comes before them, be it higher or lower."""
    settings = QuotasConfig(queue_length=1, timeout=5)
    api = await serve(msgspec.structs.replace(CONFIG, quotas=settings))
    function = await api.function()
    assert (await api("GET", f"/v1/function/{function}")).json()["capabilities"]["timeout"] == 5
    await api.task(function)
    (await api("POST", f"/v1/task/{function}")).problem(429, "QUEUE_FULL")
    await limit(api, "default", queueLength=2)
    await api.task(function)


async def test_no_more_run_at_once_than_may(api: Api, stranger: Api, node: Node) -> None:
    """Of an account's tasks so many are offered, whatever is free; another's go past; one that ends lets one follow."""
    await limit(api, "stranger", running=2)
    function = await stranger.function()
    tasks = [await stranger.task(function) for _ in range(4)]
    first, second = await node.take(), await node.take()
    other = await api.task(await api.function())
    third = await node.take()
    assert [offer.lease.task for offer in (first, second, third)] == [*tasks[:2], other]
    await node.finish(first.lease, status=200)
    assert (await node.take()).lease.task == tasks[2]
    await limit(api, "stranger", running=3)
    assert (await node.take()).lease.task == tasks[3]


async def test_functions_ask_for_no_more_than_may_be(api: Api, stranger: Api) -> None:
    """What is too much is named, with the limit; what a function asked for before stays."""
    function = await stranger.function()
    path = f"/v1/function/{function}/capabilities"
    assert (await stranger("POST", path, content={"cpuCount": 8})).status == 204
    await limit(api, "stranger", timeout=60, cpuCount=2, memSize=1024, privileged=False)
    for content, field, most in (
        ({"timeout": 61}, "timeout", "60"),
        ({"cpuCount": 3}, "cpuCount", "2"),
        ({"memSize": 2048}, "memSize", "1024"),
        ({"privileged": True}, "privileged", "may not"),
    ):
        refused = (await stranger("POST", path, content=content)).problem(400, "INVALID")
        assert (refused["field"], most in refused["detail"]) == (field, True)
    allowed = {"timeout": 60, "memSize": 1024, "privileged": False}
    assert (await stranger("POST", path, content=allowed)).status == 204
    assert (await stranger("GET", f"/v1/function/{function}")).json()["capabilities"]["cpuCount"] == 8
