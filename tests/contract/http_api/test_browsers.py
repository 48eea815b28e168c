"""Browsers that log in: the cookie, what it opens, and what keeps other pages from using it."""

from __future__ import annotations

from http.cookies import Morsel, SimpleCookie
from typing import Any

import pytest
from msgspec.structs import replace

from dispatcher.auth import token_hash
from dispatcher.config import AccessConfig
from dispatcher.ids import Ids
from dispatcher.store.access import Scope, Token
from dispatcher.throttle import BURST
from tests.contract.http_api.api import CONFIG, Answer, Api, Node, Serve

OURS = {"Sec-Fetch-Site": "same-origin"}


class Browser:
    """Keeps the cookie of a log-in and sends it, with what a page of ours would add."""

    def __init__(self, api: Api, cookie: str) -> None:
        self.api = api
        self.cookie = cookie
        self.csrf = ""

    @classmethod
    async def log_in(cls, api: Api, token: str | None = None) -> Browser:
        answer = await without_token(api, "POST", "/v1/session", {"token": token or api.token})
        assert answer.status == 204, answer.body
        browser = cls(api, "; ".join(f"{found.key}={found.value}" for found in cookies(answer)))
        browser.csrf = (await browser("GET", "/v1/session")).json()["csrfToken"]
        return browser

    async def __call__(self, method: str, path: str, content: Any = None, **headers: str) -> Answer:
        sent = {"Cookie": self.cookie} | {name.replace("_", "-"): value for name, value in headers.items()}
        return await without_token(self.api, method, path, content, sent)

    async def change(self, method: str, path: str, content: Any = None) -> Answer:
        """Ask for a change, as a page of ours does."""
        return await self(method, path, content, X_CSRF_Token=self.csrf, **{"Sec-Fetch-Site": "same-origin"})


async def without_token(
    api: Api, method: str, path: str, content: Any = None, headers: dict[str, str] | None = None
) -> Answer:
    async with api.http.request(method, api.url + path, json=content, headers=headers) as answer:
        return Answer(answer.status, answer.headers, await answer.read())


def cookies(answer: Answer) -> list[Morsel[str]]:
    found: SimpleCookie = SimpleCookie()
    for line in answer.headers.getall("Set-Cookie", []):
        found.load(line)
    return list(found.values())


async def test_log_in_sets_one_cookie_that_no_script_reads(api: Api) -> None:
    """204 and a cookie for the whole site, HttpOnly, SameSite=Strict, with an end; the token is not in it."""
    answer = await without_token(api, "POST", "/v1/session", {"token": api.token}, OURS)
    assert (answer.status, answer.body) == (204, b"")
    (cookie,) = cookies(answer)
    assert (cookie.key, cookie["path"], cookie["samesite"]) == ("fernd-session", "/", "Strict")
    assert cookie["httponly"]
    assert not cookie["secure"]
    assert not cookie["domain"]
    assert int(cookie["max-age"]) == 12 * 3600
    assert api.token not in cookie.value


async def test_cookie_is_for_tls_alone_where_the_proxy_speaks_it(serve: Serve) -> None:
    """Behind a proxy that says https, the cookie is Secure and bound to the host by its name."""
    api = await serve(replace(CONFIG, access=AccessConfig(behind_proxy=True)))
    for said, key in (("https", "__Host-fernd-session"), ("http", "fernd-session")):
        headers = {"X-Forwarded-Proto": said}
        (cookie,) = cookies(await without_token(api, "POST", "/v1/session", {"token": api.token}, headers))
        assert (cookie.key, bool(cookie["secure"])) == (key, said == "https")


async def test_forwarded_headers_are_not_believed_unasked(api: Api) -> None:
    """Anybody can write them."""
    headers = {"X-Forwarded-Proto": "https"}
    (cookie,) = cookies(await without_token(api, "POST", "/v1/session", {"token": api.token}, headers))
    assert not cookie["secure"]


async def test_cookie_stands_for_its_token(api: Api) -> None:
    """It shows who asks, reads, and with the right headers changes; the log-out ends it at once."""
    browser = await Browser.log_in(api)
    who = (await browser("GET", "/v1/session")).json()
    assert (who["account"], who["accountName"], who["tokenName"]) == ("default", "default", "test")
    assert who["scopes"] == ["tasks", "functions", "nodes", "admin"]
    assert who["administers"] is True
    assert int(who["expires"]) > 0
    assert (await browser("GET", "/v1/task/list")).json() == []
    created = await browser.change("POST", "/v1/function", {"name": "f", "type": "DOCKER", "image": "i"})
    assert created.status == 201
    ended = await browser.change("DELETE", "/v1/session")
    assert ended.status == 204
    assert {(cookie.key, cookie.value, cookie["max-age"]) for cookie in cookies(ended)} == {
        ("fernd-session", "", "0"),
        ("__Host-fernd-session", "", "0"),
    }
    (await browser("GET", "/v1/task/list")).problem(401, "UNAUTHENTICATED")


async def test_token_shows_who_asks_too(api: Api) -> None:
    """Without a browser there is no CSRF token, and nothing to log out of."""
    who = (await api("GET", "/v1/session")).json()
    assert (who["account"], who["csrfToken"], who["expires"]) == ("default", None, None)
    (await api("DELETE", "/v1/session")).problem(409, "CONFLICT")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X_CSRF_Token": "right"},
        {"Sec_Fetch_Site": "same-origin"},
        {"Sec_Fetch_Site": "same-origin", "X_CSRF_Token": "wrong"},
        {"Sec_Fetch_Site": "same-site", "X_CSRF_Token": "right"},
        {"Sec_Fetch_Site": "cross-site", "X_CSRF_Token": "right"},
        {"Sec_Fetch_Site": "none", "X_CSRF_Token": "right"},
        {"Origin": "https://evil.example", "X_CSRF_Token": "right"},
        {"Origin": "http://127.0.0.1:1", "X_CSRF_Token": "right"},
        {"Origin": "null", "X_CSRF_Token": "right"},
        {"Sec_Fetch_Site": "same-origin", "Origin": "https://evil.example", "X_CSRF_Token": "right"},
    ],
)
async def test_other_pages_cannot_change_anything(api: Api, headers: dict[str, str]) -> None:
    """Each unsafe method needs the session's CSRF token and the browser's word that a page of ours sends it."""
    browser = await Browser.log_in(api)
    sent = {name: browser.csrf if value == "right" else value for name, value in headers.items()}
    for method, path in (("POST", "/v1/function"), ("DELETE", "/v1/session"), ("PATCH", "/v1/function/" + "0" * 24)):
        (await browser(method, path, {}, **sent)).problem(403, "FORBIDDEN")
    assert (await browser("GET", "/v1/function/list")).json() == []


async def test_origin_of_ours_suffices_where_the_browser_says_no_more(api: Api) -> None:
    """On plain HTTP browsers do not send Sec-Fetch-Site, but they send Origin."""
    browser = await Browser.log_in(api)
    answer = await browser("DELETE", "/v1/session", Origin=api.url, X_CSRF_Token=browser.csrf)
    assert answer.status == 204


async def test_authorization_goes_before_the_cookie(api: Api) -> None:
    """A page of another origin cannot send it, so it needs no CSRF token; and a wrong one is wrong."""
    browser = await Browser.log_in(api)
    content = {"name": "f", "type": "DOCKER"}
    assert (await browser("POST", "/v1/function", content, Authorization=api.token)).status == 201
    (await browser("GET", "/v1/task/list", Authorization="wrong")).problem(401, "UNAUTHENTICATED")


async def test_other_pages_cannot_log_a_browser_in(api: Api) -> None:
    """A log-in by a page of another origin is refused, be the token good or not."""
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}):
        answer = await without_token(api, "POST", "/v1/session", {"token": api.token}, headers)
        answer.problem(403, "FORBIDDEN")
        assert cookies(answer) == []


@pytest.mark.parametrize("content", [{}, {"token": ""}, {"token": "x" * 2000}, {"token": "x", "more": 1}, "x"])
async def test_log_in_is_checked(api: Api, content: Any) -> None:
    """What is no log-in is 400."""
    (await without_token(api, "POST", "/v1/session", content)).problem(400, "INVALID")


async def test_failed_log_ins_are_slowed_down(api: Api) -> None:
    """After some failures in a row an address must wait, and is told how long; a token by header still works."""
    for _ in range(BURST):
        (await without_token(api, "POST", "/v1/session", {"token": "guess"})).problem(401, "UNAUTHENTICATED")
    answer = await without_token(api, "POST", "/v1/session", {"token": api.token})
    answer.problem(429, "TOO_MANY")
    assert 1 <= int(answer.headers["Retry-After"]) <= 6
    assert (await api("GET", "/v1/task/list")).status == 200


async def test_proxy_tells_whose_log_ins_failed(serve: Serve) -> None:
    """Behind a proxy it is the address that the proxy saw last, whatever the caller wrote before it."""
    api = await serve(replace(CONFIG, access=AccessConfig(behind_proxy=True)))
    for number in range(BURST):
        headers = {"X-Forwarded-For": f"10.0.0.{number}, 192.0.2.1"}
        (await without_token(api, "POST", "/v1/session", {"token": "x"}, headers)).problem(401, "UNAUTHENTICATED")
    (await without_token(api, "POST", "/v1/session", {"token": "x"}, {"X-Forwarded-For": "192.0.2.1"})).problem(
        429, "TOO_MANY"
    )
    answer = await without_token(api, "POST", "/v1/session", {"token": api.token}, {"X-Forwarded-For": "192.0.2.2"})
    assert answer.status == 204


async def test_session_ends_with_its_token(api: Api) -> None:
    """A token that is revoked takes the browsers along that logged in with it."""
    token = Token(Ids().new(), "default", "laptop", frozenset({Scope.TASKS}), 0)
    await api.store.add_token(token, token_hash("secret"))
    browser = await Browser.log_in(api, "secret")
    assert (await browser("GET", "/v1/session")).json()["scopes"] == ["tasks"]
    assert await api.store.revoke_token(token.id)
    (await browser("GET", "/v1/session")).problem(401, "UNAUTHENTICATED")


async def test_function_cannot_set_our_cookie(api: Api, node: Node) -> None:
    """Of what a function answers, our cookie is left out; to a browser no cookie at all is handed on."""
    task_id = await api.task(await api.function())
    page = b"<script>alert(1)</script>"
    headers = [
        ("content-type", "text/html"),
        ("set-cookie", "fernd-session=forged; Path=/"),
        ("Set-Cookie", "__Host-fernd-session=forged; Secure; Path=/"),
        ("Set-Cookie", "mine=1"),
        ("NEL", '{"report_to":"x"}'),
    ]
    await node.run(headers=headers, body=page)
    answer = await api("GET", f"/v1/task/{task_id}/result")
    assert answer.headers.getall("Set-Cookie") == ["mine=1"]
    browser = await Browser.log_in(api)
    shown = await browser("GET", f"/v1/task/{task_id}/result")
    assert shown.body == page
    for name in ("Set-Cookie", "NEL"):
        assert name not in shown.headers
    assert shown.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in shown.headers.getall("Content-Security-Policy")
