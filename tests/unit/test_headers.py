"""Header lines that go on and come back, and what Prefer asks for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.headers import LONGEST_WAIT, answered, forwarded, wait_asked_for
from dispatcher.problem import Problem

NAMES = st.from_regex(r"\A[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}\Z")
VALUES = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=30)


@given(st.lists(st.tuples(NAMES.map(lambda name: f"x-{name}"), VALUES)))
def test_end_to_end_headers_pass_in_order(headers: list[tuple[str, str]]) -> None:
    """Whatever is end to end passes unchanged, repeated lines too, both ways."""
    assert forwarded([(name.encode(), value.encode()) for name, value in headers]) == headers
    assert answered(headers) == headers


@pytest.mark.parametrize(
    "name",
    ["Connection", "keep-alive", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "Proxy-Authorization",
     "Proxy-Connection", "Authorization", "COOKIE", "Host", "Content-Length", "Expect", "Prefer", "X-Named", "x-also"],
)  # fmt: skip
def test_other_headers_stay_behind(name: str) -> None:
    """Hop-by-hop headers, those that Connection names, and the dispatcher's own are not forwarded."""
    lines = [(b"Connection", b"close, x-named"), (b"connection", b" X-Also "), (name.encode(), b"v"), (b"A", b"1")]
    assert forwarded(lines) == [("A", "1")]


def test_value_that_is_not_utf8_is_named() -> None:
    """It cannot be carried as it is, so it is refused with its name."""
    with pytest.raises(Problem) as caught:
        forwarded([(b"X-A", b"ok"), (b"X-B", b"\xff")])
    assert (caught.value.code, caught.value.field) == ("INVALID", "X-B")


@given(st.lists(st.tuples(st.text(max_size=10), st.text(max_size=10))))
def test_no_answer_breaks_out_of_its_header(headers: list[tuple[str, str]]) -> None:
    """Whatever a node sends as headers, no line break and no odd name gets through."""
    for name, value in answered(headers):
        assert name
        assert not set(name + value) & set("\r\n\0")


@pytest.mark.parametrize(
    ("lines", "seconds"),
    [
        ([], 0),
        (["wait=5"], 5),
        (["WAIT = 5"], 5),
        (['wait="5"'], 5),
        (["respond-async, wait=5"], 5),
        (["respond-async", "wait=5"], 5),
        (["wait=5; foo=bar, handling=lenient"], 5),
        (['foo="a, wait=9", wait=5'], 5),
        (['foo; a="x, wait=9"; b, wait=5'], 5),
        (["wait=5, wait=9"], 5),
        (["wait=5", "wait=9"], 5),
        (["wait=0"], 0),
        (["wait=61"], LONGEST_WAIT),
        (["wait=" + "9" * 5000], LONGEST_WAIT),
        (["wait"], 0),
        (["wait="], 0),
        (["wait=-5"], 0),
        (["wait=5.5"], 0),
        (["wait=\u0665"], 0),
        (["await=5"], 0),
        (["@@@, wait=5"], 5),
        ([",,wait=5"], 5),
        (['wait="5'], 0),
    ],
)
def test_wait_is_read_as_rfc_7240_says(lines: list[str], seconds: int) -> None:
    """Several headers and preferences, parameters and quotes are understood; garbage is passed over."""
    assert wait_asked_for(lines) == seconds


@given(st.lists(st.text(alphabet='wait=59;," \\ab@', max_size=40)))
def test_no_prefer_header_is_an_error(lines: list[str]) -> None:
    """Whatever stands there, the answer is a number of seconds within bounds."""
    assert 0 <= wait_asked_for(lines) <= LONGEST_WAIT
