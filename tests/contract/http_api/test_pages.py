"""The dashboard's files as a browser gets them. What it does with them is in `tests/e2e/test_dashboard.py`."""

from __future__ import annotations

import gzip
import re
from importlib.resources import files

import pytest

from tests.contract.http_api.api import Api

ANONYMOUS = {"Authorization": "none", "Accept-Encoding": "identity"}
PACKED = ANONYMOUS | {"Accept-Encoding": "gzip, br"}


async def test_the_page_is_open_to_all_and_asked_for_each_time(api: Api) -> None:
    """It has no secret in it. A browser that has it is told so by its tag."""
    page = await api("GET", "/", headers=ANONYMOUS)
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["Cache-Control"] == "no-cache"
    again = await api("GET", "/", headers=ANONYMOUS | {"If-None-Match": f'"other", W/{page.headers["ETag"]}'})
    assert (again.status, again.body, again.headers["ETag"]) == (304, b"", page.headers["ETag"])
    other = await api("GET", "/", headers=ANONYMOUS | {"If-None-Match": '"other"'})
    assert (other.status, other.body) == (200, page.body)


async def test_what_the_page_names_is_there_and_kept_for_ever(api: Api) -> None:
    """Every file that the page or another file names is served, with its type, under a path that changes with it."""
    page = await api("GET", "/", headers=ANONYMOUS)
    named = set(re.findall(r'"(/dashboard/[^"]+)"', page.body.decode()))
    assert {path.rpartition(".")[2] for path in named} == {"css", "js", "svg"}
    base = next(iter(named)).rpartition("/")[0]
    for path in sorted(named):
        file = await api("GET", path, headers=ANONYMOUS)
        assert file.status == 200, path
        assert file.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert file.headers["Content-Type"].partition(";")[0] in {"text/css", "text/javascript", "image/svg+xml"}
        for imported in re.findall(r'from "\./([a-z]+\.js)"', file.body.decode()):
            assert f"{base}/{imported}" in named, "a browser that is not told of it early waits for it longer"
    (await api("GET", f"/dashboard/{'0' * 16}/app.js", headers=ANONYMOUS)).problem(404, "NOT_FOUND")
    (await api("GET", f"{base}/__init__.py", headers=ANONYMOUS)).problem(404, "NOT_FOUND")
    (await api("GET", f"{base}/..%2Fapp.py", headers=ANONYMOUS)).problem(404, "NOT_FOUND")


@pytest.mark.parametrize("path", ["/", "/dashboard/{version}/app.js", "/dashboard/{version}/style.css"])
async def test_files_are_packed_for_whoever_can_unpack(api: Api, path: str) -> None:
    """The packed form holds the same bytes and has a tag of its own."""
    page = await api("GET", "/", headers=ANONYMOUS)
    version = re.search(r"/dashboard/([0-9a-f]{16})/", page.body.decode())
    assert version is not None
    path = path.format(version=version[1])
    plain, packed = await api("GET", path, headers=ANONYMOUS), await api("GET", path, headers=PACKED)
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    assert plain.headers["ETag"] != packed.headers["ETag"]
    assert plain.headers["Vary"] == packed.headers["Vary"] == "Accept-Encoding"
    again = await api("GET", path, headers=PACKED | {"If-None-Match": packed.headers["ETag"]})
    assert again.status == 304


async def test_a_browser_may_do_no_more_than_it_must(api: Api) -> None:
    """Scripts, styles and requests are ours alone; nobody frames the page; text cannot become markup."""
    page = await api("GET", "/", headers=ANONYMOUS)
    policy = dict(part.strip().partition(" ")[::2] for part in page.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src", "img-src")} == {"'self'"}
    assert (policy["frame-ancestors"], policy["base-uri"]) == ("'none'", "'none'")
    assert policy["require-trusted-types-for"] == "'script'"
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.headers["Referrer-Policy"] == "no-referrer"


def test_the_files_need_nothing_from_elsewhere() -> None:
    """No address of another host, no script or style inside the page, and no markup made of text."""
    for file in files("dispatcher.dashboard").iterdir():
        text = file.read_text("utf-8")
        assert not re.search(r"https?://(?!www\.w3\.org/)", text), file.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text), (
            file.name
        )
        assert not re.search(r"\bstyle=|\son[a-z]+=|<script>|<style", text), file.name
