"""Accounts, tokens and scopes, and the record of who changed what."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from dispatcher.auth import token_hash
from dispatcher.ids import Ids
from dispatcher.routes import streams
from dispatcher.routes.table import TABLE, Access
from dispatcher.store.access import Scope, Token
from tests.contract.http_api.api import Api, Node

EVERYTHING = ["tasks", "functions", "nodes", "admin"]
NOBODY = "0" * 24


async def token(api: Api, *scopes: str, **more: Any) -> tuple[str, str]:
    """Create a token and give its id and its secret."""
    answer = await api("POST", "/v1/token", content={"name": "t", "scopes": list(scopes or EVERYTHING)} | more)
    assert answer.status == 201, answer.body
    return answer.json()["id"], answer.json()["token"]


def as_(api: Api, secret: str) -> Api:
    return Api(api.http, api.url, secret, api.store)


async def audit(api: Api, query: str = "") -> list[dict[str, Any]]:
    answer = await api("GET", f"/v1/audit{query}")
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = answer.json()
    return found


@pytest.mark.parametrize("route", [route for route in TABLE if route.access is Access.ACCOUNT])
async def test_a_token_without_the_scope_is_told_which_it_needs(api: Api, route: Any) -> None:
    """For every route: 403 names the scope, and a token that has it gets further."""
    path = route.path.replace("{id}", NOBODY).replace("{nodeId}", NOBODY).replace("{accountId}", NOBODY)
    others = [scope for scope in EVERYTHING if scope not in route.scopes]
    if others:
        _, secret = await token(api, *others)
        refused = (await as_(api, secret)(route.method, path)).problem(403, "FORBIDDEN")
        assert refused["detail"].endswith(f": {' or '.join(route.scopes)}")
    method = "HEAD" if route.method == "GET" else route.method  # some answers to GET have no end
    for scope in route.scopes:
        _, secret = await token(api, scope)
        assert (await as_(api, secret)(method, path)).status not in {401, 403}


async def test_a_token_is_shown_once_and_works(api: Api) -> None:
    """Its secret stands in the answer to its creation, and nowhere else."""
    answer = await api("POST", "/v1/token", content={"name": "laptop", "scopes": ["nodes", "tasks"], "expiresIn": 60})
    made = answer.json()
    assert (answer.status, set(made)) == (201, {"id", "token", "expires"})
    assert answer.headers["Location"] == f"/v1/token/{made['id']}"
    assert answer.headers["Cache-Control"] == "no-store"
    shown = (await api("GET", answer.headers["Location"])).json()
    assert (shown["name"], shown["scopes"], shown["account"]) == ("laptop", ["tasks", "nodes"], "default")
    assert int(shown["expires"]) - int(shown["created"]) == 60
    assert set(shown) == {"id", "account", "name", "scopes", "created", "expires"}
    assert (await as_(api, made["token"])("GET", "/v1/task/list")).status == 200


async def test_a_revoked_token_ends_at_once(api: Api) -> None:
    """The next request is 401, and another DELETE is 404."""
    token_id, secret = await token(api)
    other = as_(api, secret)
    assert (await other("GET", "/v1/task/list")).status == 200
    assert (await api("DELETE", f"/v1/token/{token_id}")).status == 204
    (await other("GET", "/v1/task/list")).problem(401, "UNAUTHENTICATED")
    (await api("DELETE", f"/v1/token/{token_id}")).problem(404, "NOT_FOUND")
    assert [found["id"] for found in (await api("GET", "/v1/token/list")).json()] != [token_id]


@pytest.mark.parametrize("path", ["/v1/task/{}/events", "/v1/events"])
async def test_a_revoked_token_ends_what_it_watches(api: Api, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Not only the next request is refused: a stream that was begun before breaks off, and tells nothing more."""
    monkeypatch.setattr(streams, "CHECK_SECONDS", 0)
    token_id, secret = await token(api)
    function_id = await api.function()
    task_id = await api.task(function_id)
    async with api.http.get(f"{api.url}{path.format(task_id)}", headers={"Authorization": secret}) as watching:
        await watching.content.readuntil(b"retry: 1000\n\n")
        assert (await api("DELETE", f"/v1/token/{token_id}")).status == 204
        assert (await api("DELETE", f"/v1/task/{task_id}")).status == 204
        with suppress(aiohttp.ClientPayloadError):
            assert b"CANCELLED" not in await watching.content.read()


async def test_an_expired_token_is_no_token(api: Api) -> None:
    """It says that it has expired, to whoever has it."""
    await api.store.add_token(Token(Ids().new(), "default", "old", frozenset(Scope), 0, 1), token_hash("old"))
    assert "expired" in (await as_(api, "old")("GET", "/v1/task/list")).problem(401, "UNAUTHENTICATED")["detail"]


async def test_the_last_token_that_administers_stays(api: Api) -> None:
    """Nobody can lock everybody out."""
    (own,) = (await api("GET", "/v1/token/list")).json()
    await token(api, "admin", expiresIn=3600)
    (await api("DELETE", f"/v1/token/{own['id']}")).problem(409, "CONFLICT")
    await token(api, "admin")
    assert (await api("DELETE", f"/v1/token/{own['id']}")).status == 204


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({"scopes": ["tasks"]}, "name"),
        ({"name": "", "scopes": ["tasks"]}, "name"),
        ({"name": "a\nb", "scopes": ["tasks"]}, "name"),
        ({"name": "x" * 65, "scopes": ["tasks"]}, "name"),
        ({"name": "x"}, "scopes"),
        ({"name": "x", "scopes": []}, "scopes"),
        ({"name": "x", "scopes": ["everything"]}, "scopes"),
        ({"name": "x", "scopes": ["tasks"], "expiresIn": 0}, "expiresIn"),
        ({"name": "x", "scopes": ["tasks"], "expiresIn": 10**9}, "expiresIn"),
        ({"name": "x", "scopes": ["tasks"], "token": "mine"}, "token"),
    ],
)
async def test_new_tokens_are_checked(api: Api, content: dict[str, Any], field: str) -> None:
    """What is wrong is named."""
    assert (await api("POST", "/v1/token", content=content)).problem(400, "INVALID")["field"] == field


async def test_accounts_are_made_and_given_tokens_by_those_who_administer(api: Api) -> None:
    """A new account sees nothing of the others, and its own admin token reaches its own account alone."""
    made = await api("POST", "/v1/account", content={"name": "guests"})
    guests = made.json()["id"]
    assert (made.status, made.headers["Location"]) == (201, f"/v1/account/{guests}")
    assert (await api("GET", f"/v1/account/{guests}")).json()["name"] == "guests"
    (await api("POST", "/v1/account", content={"name": "guests"})).problem(409, "CONFLICT")
    assert {found["name"] for found in (await api("GET", "/v1/account/list")).json()} == {"default", "guests"}

    token_id, secret = await token(api, account=guests)
    guest = as_(api, secret)
    function_id = await api.function()
    (await guest("GET", f"/v1/function/{function_id}")).problem(404, "NOT_FOUND")
    assert [found["id"] for found in (await guest("GET", "/v1/token/list")).json()] == [token_id]
    assert [found["id"] for found in (await guest("GET", "/v1/account/list")).json()] == [guests]
    (await guest("POST", "/v1/account", content={"name": "more"})).problem(403, "FORBIDDEN")
    for path in ("/v1/account/default", "/v1/token/list?account=default", "/v1/audit?account=default"):
        (await guest("GET", path)).problem(404, "NOT_FOUND")
    (own,) = (await api("GET", "/v1/token/list?account=default")).json()
    for method in ("GET", "DELETE"):
        (await guest(method, f"/v1/token/{own['id']}")).problem(404, "NOT_FOUND")
    content = {"name": "x", "scopes": ["admin"], "account": "default"}
    (await guest("POST", "/v1/token", content=content)).problem(404, "NOT_FOUND")
    second, _ = await token(guest, "tasks")
    assert len((await api("GET", "/v1/token/list")).json()) == 3
    assert (await api("DELETE", f"/v1/token/{second}")).status == 204


async def test_a_token_for_no_account_is_refused(api: Api) -> None:
    """An account that is not there gets none."""
    content = {"name": "x", "scopes": ["tasks"], "account": "nobody"}
    (await api("POST", "/v1/token", content=content)).problem(404, "NOT_FOUND")


async def test_callers_find_functions_and_do_not_see_their_environment(api: Api) -> None:
    """With `tasks` alone a function is found by name and called; values of its environment are not shown."""
    function_id = await api.function("hello", env={"KEY": "secret"})
    _, secret = await token(api, "tasks")
    caller = as_(api, secret)
    (found,) = (await caller("GET", "/v1/function/list?name=hello")).json()
    assert (found["id"], found["env"]) == (function_id, {"KEY": None})
    assert (await caller("GET", f"/v1/function/{function_id}")).json()["env"] == {"KEY": None}
    assert (await api("GET", f"/v1/function/{function_id}")).json()["env"] == {"KEY": "secret"}
    await caller.task(function_id)
    (await caller("DELETE", f"/v1/function/{function_id}")).problem(403, "FORBIDDEN")


async def test_changes_of_functions_leave_lines(api: Api) -> None:
    """Each says which function and which fields, and shows no value; what changes nothing leaves none."""
    path = f"/v1/function/{await api.function('f', env={'KEY': 'one'})}"
    await api("PATCH", path, content={"env": {"KEY": "two"}, "image": "other"})
    await api("PATCH", path, content={"image": "other"})  # changes nothing
    await api("POST", f"{path}/capabilities", content={"memSize": 512})
    await api("DELETE", path)
    lines = await audit(api)
    assert [(line["action"], line["detail"]) for line in lines] == [
        ("function.remove", "f"),
        ("function.change", "f: memSize"),
        ("function.change", "f: image, env"),
        ("function.create", "f"),
    ]
    (own,) = (await api("GET", "/v1/token/list")).json()
    assert all(line["by"] == {"account": "default", "token": own["id"], "name": "test"} for line in lines)
    assert all(line["account"] == "default" and int(line["time"]) > 0 for line in lines)
    assert len({line["object"] for line in lines}) == 1


async def test_changes_of_nodes_and_tasks_leave_lines(api: Api, node: Node) -> None:
    """Who let a node in, threw it out and took it back, and who cancelled a task."""
    task_id = await api.task(await api.function())
    await api("DELETE", f"/v1/task/{task_id}")
    (await api("DELETE", f"/v1/task/{task_id}")).problem(409, "CONFLICT")
    await api("DELETE", f"/v1/node/{node.id}")
    await api("PATCH", f"/v1/node/{node.id}")
    lines = await audit(api)
    assert [(line["action"], line["object"]) for line in lines if line["action"] != "function.create"] == [
        ("node.restore", node.id),
        ("node.remove", node.id),
        ("task.cancel", task_id),
        ("node.join", node.id),
        ("join-token.create", "default"),
    ]
    (joined,) = [line for line in lines if line["action"] == "node.join"]
    assert joined["by"] == {"account": "default", "token": None, "name": "join token"}


async def test_changes_of_access_leave_lines_for_both_sides(api: Api) -> None:
    """An account sees what was done to what is its own, by whomever; those who administer see everything."""
    guests = (await api("POST", "/v1/account", content={"name": "guests"})).json()["id"]
    token_id, _ = await token(api, "tasks", account=guests)
    _, admin = await token(api, "admin", account=guests)
    await api("DELETE", f"/v1/token/{token_id}")
    await api.function()
    seen = await audit(as_(api, admin))
    assert [line["action"] for line in seen] == ["token.revoke", "token.create", "token.create", "account.create"]
    assert all((line["account"], line["by"]["account"]) == (guests, "default") for line in seen)
    assert seen == await audit(api, f"?account={guests}")
    assert [line["action"] for line in await audit(api, "?account=default")] == ["function.create"]
    everything = await audit(api)
    assert len(everything) == 5
    first = await api("GET", "/v1/audit?limit=3")
    rest = await api("GET", first.headers["Link"].partition(">")[0].lstrip("<"))
    assert first.json() + rest.json() == everything


async def test_no_secret_is_in_the_record_or_in_the_log(api: Api) -> None:
    """Tokens, cookies, credentials and environments are not in what is written about them."""
    with capture_logs() as logs:
        _, made = await token(api)
        async with api.http.post(f"{api.url}/v1/session", json={"token": made}) as answer:
            cookie = answer.cookies["fernd-session"].value
        await api.function(env={"KEY": "environment-value"})
        _, credential = await api.join()
        lines = await audit(api)
    assert {"token.create", "session.begin", "function.create", "node.join"} <= {line["action"] for line in lines}
    assert len([entry for entry in logs if entry["event"] == "changed"]) == len(lines)
    for secret in (api.token, made, cookie, credential, "environment-value"):
        assert secret not in str(lines)
        assert secret not in str(logs)


async def test_scopes_of_a_route_are_said(api: Api) -> None:
    """A route for accounts cannot be without scopes, nor another one have some: the table itself refuses."""
    route = next(route for route in TABLE if route.access is Access.ACCOUNT)
    with pytest.raises(ValueError, match="scopes"):
        replace(route, scopes=())
