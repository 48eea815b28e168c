"""What is put together from an engine's log, against a model of how the engine takes it apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.containers.streams import PART, Heard, LoggedLines, OutputLost


def entries(written: bytes) -> list[bytes]:
    """Log what was written as the engine does: lines, long ones in parts, without the newline of a long one."""
    logged = []
    for line in _lines(written):
        if len(line) <= PART:
            logged.append(line)
            continue
        parts = [line[at : at + PART] for at in range(0, len(line), PART)]
        logged += [*parts[:-1], parts[-1].removesuffix(b"\n")]
    return [b" " + entry for entry in logged]


def _lines(written: bytes) -> list[bytes]:
    *whole, rest = written.split(b"\n")
    return [line + b"\n" for line in whole] + ([rest] if rest else [])


def put_together(logged: list[bytes]) -> tuple[bytes, bool]:
    lines = LoggedLines()
    return b"".join(map(lines.feed, logged)), lines.in_doubt


sizes = st.sampled_from([0, 1, 80, PART - 1, PART, PART + 1, 2 * PART - 1, 2 * PART, 2 * PART + 1])


@given(st.lists(sizes, max_size=6), st.booleans())
def test_the_log_gives_what_was_written(lengths: list[int], newline: bool) -> None:
    """Whatever lines a job writes, its log gives the same bytes; or it is known that the last newline is not sure."""
    written = b"\n".join(b"x" * length for length in lengths) + (b"\n" if newline and lengths else b"")
    got, in_doubt = put_together(entries(written))
    if in_doubt:
        assert max(lengths) > PART
        assert written in {got, got + b"\n"}
    else:
        assert got == written


def test_the_end_of_a_long_line() -> None:
    """A newline after a long line is seen by what follows, or by an empty entry; otherwise it is in doubt."""
    part = b" " + b"x" * PART
    assert put_together([part, b" y", b" z\n"]) == (b"x" * PART + b"y\nz\n", False)
    assert put_together([part, b" "]) == (b"x" * PART + b"\n", False)
    assert put_together([part]) == (b"x" * PART, False)
    assert put_together([part, b" y"]) == (b"x" * PART + b"y", True)


@pytest.mark.parametrize("logged", [[b"no blank\n"], [b" no newline", b" and more\n"]])
def test_another_form(logged: list[bytes]) -> None:
    """A log in a form that is not known is not guessed at."""
    with pytest.raises(OutputLost):
        put_together(logged)


def heard(*pieces: bytes) -> Heard:
    """Hear some bytes, and begin again."""
    heard = Heard()
    for piece in pieces:
        heard.feed(piece)
    heard.start_over()
    return heard


@given(st.lists(st.binary(max_size=5)), st.lists(st.binary(max_size=5)), st.binary(max_size=5))
def test_a_log_that_holds_what_was_heard_is_right(first: list[bytes], again: list[bytes], more: bytes) -> None:
    """However both are cut into pieces; and it lacks something until all of that has come."""
    so_far = b"".join(again)
    told = heard(*first, so_far)
    assert told.lacks is bool(b"".join(first) + so_far)
    for piece in (b"".join(first), *again, more):
        told.feed(piece)
    assert not told.lacks


@pytest.mark.parametrize("log", [b"heard befOre, and more", b"before"])
def test_a_log_that_lost_something_is_found_out(log: bytes) -> None:
    """Bytes that an engine took with it are missing, whether the log is shorter for it or not."""
    told = heard(b"heard ", b"before")
    with pytest.raises(OutputLost):  # noqa: PT012 - the shorter one is seen by what comes next
        told.feed(log)
        assert told.lacks
        told.feed(b" and more")
