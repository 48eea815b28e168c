"""Ids sort by time, are never made twice, and survive a clock that goes back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.ids import Ids, is_node_id, is_object_id

SECONDS = st.integers(min_value=0, max_value=2**32 - 1_000_000)


def ids_at(times: list[int], start: int = 0) -> list[str]:
    clock = iter(times)
    ids = Ids(lambda: next(clock), lambda count: b"\xab\xcd\xef\x01\x02" if count == 5 else start.to_bytes(3))
    return [ids.new() for _ in times]


@given(st.lists(SECONDS, min_size=1, max_size=50), st.integers(0, 2**24 - 1))
def test_each_id_is_greater_than_all_before(times: list[int], start: int) -> None:
    """Whatever the clock does, and wherever the counter stands, ids rise and have the right shape."""
    made = ids_at(times, start)
    assert made == sorted(set(made))
    assert all(is_object_id(made_id) for made_id in made)


@given(st.lists(SECONDS, min_size=2, max_size=50, unique=True).map(sorted))
def test_ids_carry_the_time(times: list[int]) -> None:
    """While the clock goes forward the first four bytes are its seconds."""
    assert [int(made[:8], 16) for made in ids_at(times)] == times


def test_layout_is_seconds_process_counter() -> None:
    """The layout is that of an ObjectId."""
    assert ids_at([0x63F47D24], start=41) == ["63f47d24abcdef01020000" + "2a"]


def test_counter_that_starts_again_moves_time_on() -> None:
    """After the counter's last value the next id is still greater, within the same second."""
    before, after = ids_at([7, 7], start=2**24 - 2)
    assert (before[-6:], after[-6:]) == ("ffffff", "000000")
    assert after > before


def test_processes_differ_in_their_random_part() -> None:
    """Two dispatchers in the same second do not make the same ids."""
    assert Ids(lambda: 1.0).new()[8:18] != Ids(lambda: 1.0).new()[8:18]


@given(st.text())
def test_other_texts_are_no_ids(text: str) -> None:
    """Nothing but lowercase hex of the right length passes; above all no line break behind it."""
    assert not is_object_id(text) or (len(text) == 24 and set(text) <= set("0123456789abcdef"))
    assert not is_object_id("0" * 24 + "\n")
    assert not is_node_id("1a061cfd-df01-4b02-a067-5122c5941e15\n")
    assert is_node_id("1a061cfd-df01-4b02-a067-5122c5941e15")
