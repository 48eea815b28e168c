"""Which header lines go on to a function and back, and what `Prefer` asks for. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from agent.protocol import Headers
from dispatcher.browser import COOKIES
from dispatcher.problem import invalid

LONGEST_WAIT = 60
"""Seconds; a caller who would wait longer is answered after so many."""

_HOP_BY_HOP = frozenset({"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"})
_FOR_THE_ORIGIN = frozenset({"alt-svc", "clear-site-data", "nel", "report-to", "strict-transport-security"})
"""Rules for everything that comes from where the answer comes from: not a function's to make."""

_OURS = frozenset({"authorization", "cookie", "host", "content-length", "expect", "prefer"})
"""Meant for the dispatcher, or different on each connection."""

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_NAME = re.compile(_WORD)
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PREFERENCE = re.compile(rf"\s*({_WORD})\s*(?:=\s*({_WORD}|{_QUOTED})?\s*)?((?:;(?:[^,\"]|{_QUOTED})*)?)")


def forwarded(raw: Sequence[tuple[bytes, bytes]]) -> Headers:
    """Choose the header lines of a request that its function gets, in their order.

    Raises:
        Problem: One of them is not UTF-8.
    """
    headers: Headers = []
    for name, value in raw:
        try:
            headers.append((name.decode("ascii"), value.decode("utf-8")))
        except UnicodeDecodeError:
            raise invalid(name.decode("ascii", "backslashreplace"), "a header's value must be UTF-8") from None
    passed_over = _HOP_BY_HOP | _OURS | _named_by_connection(headers)
    return [
        (name, value)
        for name, value in headers
        if name.lower() not in passed_over and not name.lower().startswith("proxy-")
    ]


def answered(headers: Headers) -> Headers:
    """Choose the header lines of a function's answer that its caller gets, in their order.

    They come from a node, so what could break the answer apart is left out, too.
    """
    passed_over = _HOP_BY_HOP | _FOR_THE_ORIGIN | {"content-length"} | _named_by_connection(headers)
    return [
        (name, value)
        for name, value in headers
        if _NAME.fullmatch(name)
        and _VALUE.fullmatch(value)
        and name.lower() not in passed_over
        and not name.lower().startswith("proxy-")
        and not (name.lower() == "set-cookie" and value.partition("=")[0].strip() in COOKIES)
    ]


def wait_asked_for(lines: Iterable[str]) -> int:
    """Read how many seconds ``Prefer: wait=N`` (RFC 7240) asks to wait; 0 where it does not.

    What cannot be read is passed over, as are preferences that we do not know; of several the first holds.
    """
    for line in lines:
        position = 0
        while position < len(line):
            found = _PREFERENCE.match(line, position)
            if found is None:
                position = _after_comma(line, position)
                continue
            if found[1].lower() == "wait":
                seconds = (found[2] or "").strip('"')
                return min(int(seconds[:9]), LONGEST_WAIT) if seconds.isascii() and seconds.isdigit() else 0
            position = _after_comma(line, found.end())
    return 0


def _after_comma(line: str, position: int) -> int:
    comma = line.find(",", position)
    return len(line) if comma < 0 else comma + 1


def _named_by_connection(headers: Headers) -> set[str]:
    return {
        name.strip().lower() for header, value in headers if header.lower() == "connection" for name in value.split(",")
    }
