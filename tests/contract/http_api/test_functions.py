"""Functions over HTTP: created, changed by revisions, and refused with the name of the field that is wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.contract.http_api.api import Api, Node

NEW = {"name": "hello", "type": "DOCKER"}


async def test_only_name_and_type_are_needed(api: Api) -> None:
    """Everything else has a default, and all of it is shown."""
    created = await api("POST", "/v1/function", content=NEW)
    function_id = created.json()["id"]
    assert created.status == 201
    assert created.headers["Location"] == f"/v1/function/{function_id}"
    shown = (await api("GET", f"/v1/function/{function_id}")).json()
    assert isinstance(shown.pop("created"), str)
    assert shown == {
        "id": function_id,
        "name": "hello",
        "description": "",
        "lang": "ANY",
        "type": "DOCKER",
        "image": "",
        "mode": "http",
        "env": {},
        "network": "none",
        "reuse": True,
        "concurrency": 1,
        "warm": 0,
        "retries": 2,
        "readyPath": "",
        "grace": 5,
        "pull": "missing",
        "capabilities": {"timeout": 10, "cpuCount": 0, "memSize": 0, "networkLatency": 0, "privileged": False},
        "revision": 1,
    }


async def test_every_field_is_kept(api: Api) -> None:
    """What a function was created with is what is shown."""
    given = NEW | {
        "description": "d" * 80,
        "lang": "PY",
        "image": "registry.example:5000/a/b:v1@sha256:" + "0" * 64,
        "mode": "job",
        "env": {"A": "1", "LONG_NAME": "x=y\n"},
        "network": "internet",
        "reuse": False,
        "concurrency": 8,
        "warm": 3,
        "retries": 0,
        "readyPath": "/ready?x=1",
        "grace": 300,
        "pull": "always",
    }
    created = await api("POST", "/v1/function", content=given)
    shown = (await api("GET", f"/v1/function/{created.json()['id']}")).json()
    assert {key: shown[key] for key in given} == given


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "a b"}, "name"), ({"name": ""}, "name"), ({"name": "x" * 65}, "name"),
        ({"name": "n\u00e4me"}, "name"), ({"readyPath": "/a\n"}, "readyPath"), ({"env": {"A\n": ""}}, "env"),
        ({"name": "x\n"}, "name"), ({"name": None}, "name"), ({"type": "WASM"}, "type"), ({"lang": "py"}, "lang"),
        ({"description": "d" * 81}, "description"), ({"mode": "tcp"}, "mode"), ({"network": "host"}, "network"),
        ({"reuse": "yes"}, "reuse"), ({"concurrency": 0}, "concurrency"), ({"concurrency": 1.5}, "concurrency"),
        ({"warm": 101}, "warm"), ({"warm": -1}, "warm"),
        ({"retries": 11}, "retries"), ({"retries": -1}, "retries"),
        ({"retries": 1.5}, "retries"), ({"grace": 301}, "grace"), ({"grace": -1}, "grace"),
        ({"readyPath": "ready"}, "readyPath"), ({"readyPath": "/a b"}, "readyPath"),
        ({"readyPath": "/\r\nX: y"}, "readyPath"), ({"image": "UPPER"}, "image"), ({"image": "a b"}, "image"),
        ({"image": "-a"}, "image"), ({"image": "a:"}, "image"), ({"image": "a@sha256:1"}, "image"),
        ({"image": "a\n"}, "image"), ({"image": "http://x/y"}, "image"), ({"image": "a/" * 300}, "image"),
        ({"env": {"a b": "x"}}, "env"), ({"env": {"A": 1}}, "env"), ({"env": {"A": "\x00"}}, "env"),
        ({"env": {"A": "x" * 40_000}}, "env"), ({"env": {"A": "x" * 32_000, "B": "\u00fc" * 32_000}}, "env"),
        ({"env": {f"A{n}": "" for n in range(129)}}, "env"), ({"env": []}, "env"), ({"what": 1}, "what"),
    ],
)  # fmt: skip
async def test_wrong_fields_are_named(api: Api, change: dict[str, Any], field: str) -> None:
    """Create and change refuse the same values, and say which field it was."""
    assert (await api("POST", "/v1/function", content=NEW | change)).problem(400, "INVALID")["field"] == field
    path = f"/v1/function/{await api.function()}"
    assert (await api("PATCH", path, content=change)).problem(400, "INVALID")["field"] == field
    assert (await api("GET", path)).json()["revision"] == 1


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"name": "a b"}, "name: expected 1 to 64 ASCII letters, digits, - and _"),
        ({"lang": "py"}, "lang: expected one of ANY, CS, GO, JS, PY, RB, RS"),
        ({"retries": 11}, "retries: expected a whole number from 0 to 10"),
        ({"reuse": None}, "reuse: expected true or false"),
        ({"env": []}, "env: expected object, got array"),
    ],
)
async def test_wrong_fields_are_told_what_was_expected(api: Api, change: dict[str, Any], detail: str) -> None:
    """The sentence is for people: bounds and choices, not the types and patterns of the code."""
    for method, path in (("POST", "/v1/function"), ("PATCH", f"/v1/function/{await api.function()}")):
        content = NEW | change if method == "POST" else change
        assert (await api(method, path, content=content)).problem(400, "INVALID")["detail"] == detail


@pytest.mark.parametrize(
    "image",
    ["hello", "hello:latest", "localhost/hello", "localhost:5000/a/b", "ghcr.io/o/n@sha256:" + "a" * 64, "a__b/c.d-e",
     "[::1]:5000/x", "EXAMPLE.com/x"],
)  # fmt: skip
async def test_image_references_of_every_form_pass(api: Api, image: str) -> None:
    """Registry, port, path, tag and digest are all optional but the path."""
    assert (await api("POST", "/v1/function", content=NEW | {"image": image})).status == 201


@pytest.mark.parametrize(
    ("body", "field"),
    [(b"", "body"), (b"{", "body"), (b"[]", "body"), (b"\xff", "body"), (b"null", "body"), (b"{}", "name"),
     (b'{"name":"a"}', "type"), (b'{"name":' + b"[" * 50_000, "body"), (b'{"name":"a","type":"DOCKER"} x', "body"),
     (b'{"a\\nb":1}', "a\nb"), (b'{"' + b"x" * 9000 + b'":1}', "x" * 100)],
)  # fmt: skip
async def test_documents_that_are_none_are_refused(api: Api, body: bytes, field: str) -> None:
    """Broken JSON, other JSON, and missing fields are 400 with the part that is wrong."""
    assert (await api("POST", "/v1/function", body=body)).problem(400, "INVALID")["field"] == field


async def test_names_are_unique_in_an_account(api: Api, stranger: Api) -> None:
    """A name that is taken is a conflict, on create and on change; another account may have it."""
    first = await api.function(name="one")
    second = await api.function(name="two")
    (await api("POST", "/v1/function", content=NEW | {"name": "one"})).problem(409, "CONFLICT")
    (await api("PATCH", f"/v1/function/{second}", content={"name": "one"})).problem(409, "CONFLICT")
    assert (await api("PATCH", f"/v1/function/{first}", content={"name": "one"})).status == 204
    await stranger.function(name="one")
    assert [found["id"] for found in (await api("GET", "/v1/function/list?name=two")).json()] == [second]
    assert (await api("GET", "/v1/function/list?name=three")).json() == []


async def test_change_makes_a_revision_and_tasks_keep_theirs(api: Api, node: Node) -> None:
    """A task created before a change runs what it was created with; one that changes nothing makes none."""
    function_id = await api.function(env={"A": "1"})
    path = f"/v1/function/{function_id}"
    await node.ws.close()
    before = await api.task(function_id)
    assert (await api("PATCH", path, content={"env": {"A": "2"}, "image": "hello:v2"})).status == 204
    assert (await api("PATCH", path, content={"env": {"A": "2"}})).status == 204
    assert (await api("PATCH", path, content={})).status == 204
    after = await api.task(function_id)
    shown = (await api("GET", path)).json()
    assert (shown["revision"], shown["image"], shown["env"], shown["name"]) == (2, "hello:v2", {"A": "2"}, "hello")
    await node.open()
    offers = {offer.lease.task: offer.revision for offer in (await node.take(), await node.take())}
    assert (offers[before].number, offers[before].image, offers[before].env) == (1, "hello:latest", {"A": "1"})
    assert (offers[after].number, offers[after].image, offers[after].env) == (2, "hello:v2", {"A": "2"})


async def test_changes_at_the_same_time_all_hold(api: Api) -> None:
    """Changes of different fields that race each other are both kept."""
    path = f"/v1/function/{await api.function()}"
    answers = await asyncio.gather(
        api("PATCH", path, content={"retries": 5}),
        api("PATCH", path, content={"lang": "GO"}),
        api("POST", f"{path}/capabilities", content={"timeout": 77}),
    )
    assert [answer.status for answer in answers] == [204, 204, 204]
    shown = (await api("GET", path)).json()
    assert (shown["retries"], shown["lang"], shown["capabilities"]["timeout"]) == (5, "GO", 77)
    assert shown["revision"] == 4


async def test_capabilities_are_set_and_kept(api: Api) -> None:
    """What is named is set, the rest stays, and whole numbers are shown whole."""
    function_id = await api.function()
    path = f"/v1/function/{function_id}"
    first = {"timeout": 900, "cpuCount": 1.5, "memSize": 6, "networkLatency": 20, "privileged": True}
    assert (await api("POST", f"{path}/capabilities", content=first)).status == 204
    assert (await api("GET", path)).json()["capabilities"] == first
    assert (await api("POST", f"{path}/capabilities", content={"cpuCount": 64})).status == 204
    assert (await api("GET", path)).body.count(b'"cpuCount":64,') == 1
    assert (await api("GET", path)).json()["capabilities"] == first | {"cpuCount": 64}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"timeout": 0}, "timeout"), ({"timeout": 901}, "timeout"), ({"timeout": "9"}, "timeout"),
        ({"cpuCount": 65}, "cpuCount"), ({"cpuCount": -1}, "cpuCount"), ({"memSize": 5}, "memSize"),
        ({"cpuCount": 0.009}, "cpuCount"), ({"cpuCount": 1e-300}, "cpuCount"),
        ({"memSize": 1.5}, "memSize"), ({"networkLatency": -1}, "networkLatency"), ({"privileged": 1}, "privileged"),
        ({"disk": 1}, "disk"),
    ],
)  # fmt: skip
async def test_wrong_capabilities_are_named(api: Api, change: dict[str, Any], field: str) -> None:
    """Each capability has its range."""
    path = f"/v1/function/{await api.function()}/capabilities"
    assert (await api("POST", path, content=change)).problem(400, "INVALID")["field"] == field


async def test_removed_function_is_gone_and_its_tasks_go_on(api: Api, node: Node) -> None:
    """After DELETE nothing can be created of it, and what was created before still finishes."""
    function_id = await api.function()
    task_id = await api.task(function_id)
    offer = await node.take()
    assert (await api("DELETE", f"/v1/function/{function_id}")).status == 204
    for method, rest in (("GET", ""), ("DELETE", ""), ("PATCH", ""), ("POST", "/capabilities")):
        (await api(method, f"/v1/function/{function_id}{rest}", content={})).problem(404, "NOT_FOUND")
    (await api("POST", f"/v1/task/{function_id}")).problem(404, "NOT_FOUND")
    await node.finish(offer.lease, status=200, body=b"done")
    assert (await api("GET", f"/v1/task/{task_id}/result")).body == b"done"


async def test_list_comes_in_pages(api: Api) -> None:
    """Newest first, with a Link to the next page, and none on the last."""
    ids = [await api.function(name=f"f{number}") for number in range(3)]
    first = await api("GET", "/v1/function/list?limit=2")
    assert [found["id"] for found in first.json()] == ids[:0:-1]
    second = await api("GET", first.headers["Link"].partition(">")[0].lstrip("<"))
    assert [found["id"] for found in second.json()] == ids[:1]
    assert "Link" not in second.headers
