"""Logs: what a line holds, and what it never holds. Each case is a process, since logging is set up for a whole one."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from agent.logs import MASK, redact

SECRET = "s3cr3t-value"


def run(code: str, **configured: str) -> str:
    """Run code in a process with logging set up; give its stderr."""
    script = f"import logging, warnings, structlog\nfrom agent import logs\nlogs.configure(**{configured})\n"
    script += "log = structlog.get_logger()\n" + code
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == ""
    return done.stderr


def lines(code: str, **configured: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(code, **configured).splitlines()]


def test_a_line_is_one_json_object() -> None:
    """Without a terminal: one object a line, with UTC time, level, event, bound context and values of any type."""
    line, *others = lines(
        "structlog.contextvars.bind_contextvars(task='abc')\n"
        "log.info('lease expired', attempt=2, words='a\\nb', kind=int, raw=b'x', huge=2**80)"
    )
    assert others == []
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert line["timestamp"].endswith("Z")
    assert line == line | {"level": "info", "event": "lease expired", "task": "abc", "attempt": 2, "words": "a\nb"}
    assert line["kind"] == "<class 'int'>"


@pytest.mark.parametrize(("level", "expected"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_level(level: str, expected: int) -> None:
    """What is less important than the level is not written."""
    assert len(lines("log.debug('a'); log.info('b'); log.warning('c'); log.error('d')", level=level)) == expected


def test_libraries_join_from_warning_on() -> None:
    """Records of `logging`, and Python's warnings, come in the same form; a broken one does not break its library."""
    found = lines(
        "library = logging.getLogger('aiohttp.access')\n"
        "library.info('quiet')\n"
        "library.warning('odd %s', 'thing')\n"
        "library.log(35, 'custom level')\n"
        "library.critical('broken %s', 1, 2)\n"
        "warnings.warn('old')\n"
    )
    assert [(line["level"], line["event"]) for line in found[:3]] == [
        ("warning", "odd thing"),
        ("warning", "custom level"),
        ("error", "broken %s"),
    ]
    assert {line["library"] for line in found} == {"aiohttp.access", "py.warnings"}


def test_exceptions_are_compact() -> None:
    """An exception is its type, message and frames, with causes and the members of groups, on the same line."""
    first, second = lines(
        "def fail():\n    raise KeyError('k')\n"
        "try:\n    try:\n        fail()\n    except KeyError as error:\n        raise ValueError('v') from error\n"
        "except ValueError:\n    log.exception('failed')\n"
        "log.error('many', exc_info=ExceptionGroup('g', [OSError('a'), OSError('b')]))\n"
    )
    assert first["exception"]["type"] == "ValueError"
    assert first["exception"]["message"] == "v"
    assert first["exception"]["cause"]["at"][-1].endswith(" fail")
    assert [inner["message"] for inner in second["exception"]["group"]] == ["a", "b"]


@pytest.mark.parametrize("format", ["json", "console"])
def test_no_secret_is_written(format: str) -> None:  # noqa: A002 - the name of the setting
    """Secrets do not get out by key, in nested values, texts, URLs, messages of libraries or exceptions."""
    written = run(
        f"from agent.protocol import Lease\nsecret = {SECRET!r}\n"
        "log.info('a', token=secret, api_key=secret, Authorization=secret, credential=secret, db_password=secret)\n"
        "log.info('b', headers={'Cookie': secret, 'X': ['Bearer ' + secret]})\n"
        "log.info('c', lease=Lease('0' * 24, 1, secret.encode()))\n"
        "log.info('bearer ' + secret, url='postgresql://me:' + secret + '@host/db')\n"
        "logging.getLogger('docker').error('got Bearer %s', secret)\n"
        "try:\n    raise ValueError('Bearer ' + secret)\n"
        "except ValueError as error:\n    log.exception('c', error=error)\n",
        format=format,
    )
    assert SECRET not in written.replace("raise ValueError('Bearer ' + secret)", "")
    assert written.count(MASK) >= 10


def test_console_is_readable() -> None:
    """The console format is a line of words, without JSON."""
    assert "[warning  ] disk is short" in run("log.warning('disk is short', free=3)", format="console")


def test_redaction_leaves_other_values_alone() -> None:
    """What is no secret keeps its type and value."""
    event = {"event": "bearer of news", "count": 3, "ratio": 0.5, "names": ["a"], "nothing": None}
    assert redact(None, "info", dict(event)) == event | {"event": "bearer *** news"}


def test_the_level_can_change() -> None:
    """Also for loggers that were used before."""
    found = lines("log.debug('a'); logs.set_level('debug'); log.debug('b'); logs.set_level('error'); log.info('c')")
    assert [line["event"] for line in found] == ["b"]
