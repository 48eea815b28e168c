"""Output is cut into the same lines however it comes, and kept in bounded memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.containers.output import (
    LINE_LIMIT,
    LIVE_LINES,
    MESSAGE_LIMIT,
    Capture,
    Demultiplexer,
    Lines,
    LogBuffer,
    Progress,
    Stream,
    parse_progress,
)

streams: st.SearchStrategy[Stream] = st.sampled_from(["stdout", "stderr"])
frames = st.lists(st.tuples(streams, st.binary(max_size=40)), max_size=20)
text = st.lists(
    st.sampled_from([b"\n", b"a", b"::progress::", b"42", b" half way", b"\r", b"x" * (LINE_LIMIT - 3), b"\xff\x00"]),
    max_size=30,
).map(b"".join)


def pieces(content: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Cut bytes at some places."""
    places = sorted({0, len(content), *(cut % (len(content) + 1) for cut in cuts)})
    return [content[start:end] for start, end in itertools.pairwise(places)]


def framed(given: list[tuple[Stream, bytes]]) -> bytes:
    numbers = {"stdout": 1, "stderr": 2}
    return b"".join(
        bytes([numbers[stream], 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload for stream, payload in given
    )


def joined(given: Iterable[tuple[Stream, bytes]]) -> list[tuple[Stream, bytes]]:
    """Join neighbours of one stream."""
    return [
        (stream, joined)
        for stream, group in itertools.groupby((each for each in given if each[1]), key=lambda each: each[0])
        if (joined := b"".join(payload for _, payload in group))
    ]


@given(frames, st.lists(st.integers(0, 2000)))
def test_frames_come_apart_however_they_are_cut(given: list[tuple[Stream, bytes]], cuts: list[int]) -> None:
    """Any cutting of the attach stream gives the same output of each stream, in order."""
    demultiplexer = Demultiplexer()
    out = [each for piece in pieces(framed(given), cuts) for each in demultiplexer.feed(piece)]
    assert joined(out) == joined(given)


@given(text, st.lists(st.integers(0, 200_000)))
def test_lines_are_the_same_however_they_are_cut(content: bytes, cuts: list[int]) -> None:
    """Any cutting gives the same lines, none longer than the limit, and every byte is in them."""
    whole, cut = Lines(), Lines()
    expected = whole.feed(content) + whole.flush()
    lines = [line for piece in pieces(content, cuts) for line in cut.feed(piece)] + cut.flush()
    assert lines == expected
    assert all(len(line.removesuffix(b"\n")) <= LINE_LIMIT for line in lines)
    assert b"".join(lines) == content


def test_a_line_without_end_is_bounded() -> None:
    """A function that never writes a newline does not fill memory."""
    lines = Lines()
    for _ in range(100):
        lines.feed(b"x" * 10_000)
        assert len(lines._rest) <= LINE_LIMIT


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"::progress::42", Progress(42, "")),
        (b"::progress::0", Progress(0, "")),
        (b"::progress::100 done", Progress(100, "done")),
        (b"::progress::42 some words ", Progress(42, "some words")),
        (b"::progress::42\r", Progress(42, "")),
        (b"::progress::7 \xff", Progress(7, "\N{REPLACEMENT CHARACTER}")),
        (b"::progress::7 " + b"w" * 1000, Progress(7, "w" * MESSAGE_LIMIT)),
        (b"::progress::101", None),
        (b"::progress::-1", None),
        (b"::progress::4.5", None),
        (b"::progress::", None),
        (b"::progress::42x", None),
        (b" ::progress::42", None),
        ("::progress::٤٢".encode(), None),
        (b"progress 42", None),
    ],
)
def test_progress_lines(line: bytes, expected: Progress | None) -> None:
    """A progress line has a whole percentage and perhaps words; anything else is an ordinary line."""
    assert parse_progress(line) == expected


@given(st.binary(max_size=60))
def test_any_line_can_be_read(line: bytes) -> None:
    """Whatever follows the mark, it is progress within bounds or an ordinary line."""
    progress = parse_progress(b"::progress::" + line)
    assert progress is None or (0 <= progress.percent <= 100 and len(progress.message) <= MESSAGE_LIMIT)


@given(st.lists(st.binary(max_size=50), max_size=40), st.integers(1, 64))
def test_a_log_keeps_its_beginning_and_its_end(added: list[bytes], part: int) -> None:
    """What is left out is counted, and everything else is kept."""
    buffer = LogBuffer(2 * part)
    for piece in added:
        buffer.add(piece)
    log, whole = buffer.log(), b"".join(added)
    assert log.head == whole[:part]
    assert log.tail == whole[part:][-part:]
    assert len(log.head) + log.omitted + len(log.tail) == len(whole)


class Told:
    def __init__(self) -> None:
        self.percents: list[tuple[int, str]] = []
        self.lines: list[tuple[Stream, bytes]] = []
        self.capture = Capture(
            lambda percent, message: self.percents.append((percent, message)),
            lambda stream, line: self.lines.append((stream, line)),
        )


def test_a_capture_takes_progress_out_of_the_log() -> None:
    """Progress is told and left out; streams do not mix within a line; a last line without newline counts."""
    told = Told()
    told.capture.feed("stdout", b"one\n::progress::4")
    told.capture.feed("stderr", b"two\n")
    told.capture.feed("stdout", b"2 half\nthree")
    log = told.capture.close()
    assert told.percents == [(42, "half")]
    assert told.lines == [("stdout", b"one"), ("stderr", b"two"), ("stdout", b"three")]
    assert log.head == b"one\ntwo\nthree"


def test_a_log_is_what_was_written() -> None:
    """A long line is one line in the log, and no newline is added at the end; live it is shown in parts."""
    told = Told()
    long = b"x" * (LINE_LIMIT - 3) + b"::progress::42" + b"y" * LINE_LIMIT
    told.capture.feed("stderr", long[:10])
    told.capture.feed("stderr", long[10:] + b"\nend")
    assert told.capture.close().head == long + b"\nend"
    assert told.percents == []
    assert b"".join(line for _, line in told.lines) == long + b"end"


def test_a_long_progress_line_is_left_out_whole() -> None:
    """No part of a progress line gets into the log, however long its message is."""
    told = Told()
    told.capture.feed("stderr", b"::progress::42 " + b"w" * (2 * LINE_LIMIT))
    told.capture.feed("stderr", b"::progress::43\nlog\n")
    assert told.capture.close().head == b"log\n"
    assert told.percents == [(42, "w" * MESSAGE_LIMIT)]


def test_streams_do_not_mix_within_a_line_of_the_log() -> None:
    """What interrupts a long line of the other stream begins a line of its own."""
    told = Told()
    told.capture.feed("stdout", b"x" * (LINE_LIMIT + 1))
    told.capture.feed("stderr", b"error\n")
    told.capture.feed("stdout", b"y\n")
    assert told.capture.close().head == b"x" * LINE_LIMIT + b"\nerror\nxy\n"


def test_a_flood_of_lines_is_shown_in_part() -> None:
    """So many lines of one piece are shown live, and all are logged."""
    told = Told()
    told.capture.feed("stdout", b"y\n" * 10_000)
    assert len(told.lines) == LIVE_LINES
    assert len(told.capture.close().head) == 20_000
