"""`fernd token`, `account` and `audit`, as processes against the real API."""

from __future__ import annotations

import asyncio
import json
import os
import sys

import pytest

from tests.contract.http_api.api import Api


async def fernd(api: Api, *arguments: str, token: str | None = None) -> tuple[int, str, str]:
    """Run a command; give its exit code, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent.cli", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "FERND_URL": api.url, "FERND_TOKEN": token or api.token},
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_a_token_from_its_creation_to_its_end(api: Api) -> None:
    """It is printed once and alone, works for what it is for, is listed without its secret, and can be revoked."""
    code, out, _ = await fernd(api, "token", "create", "ci", "--scope", "tasks", "--expires-in", "30d")
    token = out.strip()
    assert code == 0
    assert (await fernd(api, "task", "list", token=token))[0] == 0
    code, _, err = await fernd(api, "node", "list", token=token)
    assert (code, "FORBIDDEN" in err, "nodes" in err) == (1, True, True)
    _, listed, _ = await fernd(api, "token", "list")
    assert "ci" in listed
    assert token not in listed
    (found,) = [one for one in json.loads((await fernd(api, "token", "list", "--json"))[1]) if one["name"] == "ci"]
    assert found["scopes"] == ["tasks"]
    assert int(found["expires"]) - int(found["created"]) == 30 * 86_400
    assert (await fernd(api, "token", "revoke", found["id"]))[0] == 0
    code, _, err = await fernd(api, "task", "list", token=token)
    assert (code, "UNAUTHENTICATED" in err) == (1, True)


async def test_an_account_and_what_was_done(api: Api) -> None:
    """An account gets an id and then a token; the audit says who did it, newest first."""
    account = (await fernd(api, "account", "create", "guests"))[1].strip()
    made = await fernd(api, "token", "create", "first", "--scope", "admin", "--account", account, "--json")
    token = json.loads(made[1])
    assert {found["name"] for found in json.loads((await fernd(api, "account", "list", "--json"))[1])} == {
        "default",
        "guests",
    }
    lines = json.loads((await fernd(api, "audit", "--json", token=token["token"]))[1])
    assert [(line["action"], line["object"]) for line in lines] == [
        ("token.create", token["id"]),
        ("account.create", account),
    ]
    _, shown, _ = await fernd(api, "audit", "--limit", "1", "--all")
    assert [line.split()[5] for line in shown.splitlines()[1:]] == ["token.create", "account.create"]


@pytest.mark.parametrize("given", ["x", "-1", "1w", "1.5h", ""])
async def test_a_time_that_is_none_is_a_usage_error(api: Api, given: str) -> None:
    """Exit code 2, with what was expected."""
    code, _, err = await fernd(api, "token", "create", "x", "--scope", "tasks", "--expires-in", given)
    assert (code, "expected a time" in err) == (2, True)


async def test_limits_of_an_account(api: Api) -> None:
    """They are set, shown and taken away again; what is no limit is a wrong use."""
    assert (await fernd(api, "account", "set", "default", "--running", "3", "--cpu", "1.5", "--privileged", "no"))[
        0
    ] == 0
    assert (await fernd(api, "account", "set", "default", "--running", "none"))[0] == 0
    _, shown, _ = await fernd(api, "account", "show", "default", "--json")
    limits = json.loads(shown)["limits"]
    assert {name: limit for name, limit in limits.items() if limit is not None} == {
        "cpuCount": 1.5,
        "privileged": False,
    }
    assert "limits.cpuCount" in (await fernd(api, "account", "show", "default"))[1]
    assert (await fernd(api, "account", "set", "default", "--running", "many"))[0] == 2
    assert (await fernd(api, "account", "set", "default"))[0] == 2
