"""Bodies in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from dispatcher.store.base import Store
from dispatcher.store.body_keys import result_key
from dispatcher.store.errors import BodyMissing, KeyReused, UploadOvertaken
from dispatcher.store.pieces import CHUNK
from dispatcher.store.records import Upload, Verdict
from tests.contract.store.cases import (
    ACCOUNT,
    ANSWER,
    CANCELLED,
    NODE,
    accepted,
    body_of,
    claim_one,
    new_task,
    one_at_a_time,
    task_id,
)


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [b""],
        [b"x"],
        [b"x" * CHUNK],
        [b"x" * CHUNK, b"y"],
        [bytes(range(256)) * 4096, b"z" * 10],
        [b"abc" * 1000] * 300,
    ],
    ids=["none", "empty", "byte", "chunk", "chunk+1", "long chunk", "many"],
)
async def test_a_body_comes_back_byte_for_byte(store: Store, chunks: Sequence[bytes]) -> None:
    """However a body was cut when it came, it is kept whole, and given in pieces of at most `CHUNK` bytes."""
    whole = b"".join(chunks)
    assert await store.write_body("key", one_at_a_time(*chunks), len(whole)) == len(whole)
    pieces = [piece async for piece in store.read_body("key")]
    assert b"".join(pieces) == whole
    assert all(0 < len(piece) <= CHUNK for piece in pieces)


async def test_a_body_over_the_limit_is_not_kept(store: Store) -> None:
    """One byte too many, and nothing is kept, nor any more of it read."""
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b"x" * CHUNK

    assert await store.write_body("key", endless(), 3 * CHUNK) is None
    assert taken == 4
    with pytest.raises(BodyMissing):
        await body_of(store, "key")


async def test_a_body_that_breaks_off_is_not_kept(store: Store) -> None:
    """A caller that fails or goes away halfway leaves nothing that could be seen; the name is free."""

    async def failing() -> AsyncIterator[bytes]:
        yield b"x" * CHUNK * 2
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await store.write_body("key", failing(), CHUNK * 9)
    with pytest.raises(BodyMissing):
        await body_of(store, "key")

    begun = asyncio.Event()

    async def hanging() -> AsyncIterator[bytes]:
        yield b"x" * CHUNK * 2
        begun.set()
        await asyncio.Event().wait()

    writing = asyncio.create_task(store.write_body("key", hanging(), CHUNK * 9))
    await begun.wait()
    with pytest.raises(BodyMissing):
        await body_of(store, "key")
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await store.write_body("key", one_at_a_time(b"whole"), 5) == 5
    assert await body_of(store, "key") == b"whole"


async def test_a_body_is_replaced_until_a_task_uses_it(store: Store) -> None:
    """A result that is uploaded again takes the place of the first, but never changes one that is recorded."""
    lease = await accepted(store)
    key = result_key(lease)
    await store.write_body(key, one_at_a_time(b"first"), 10)
    await store.write_body(key, one_at_a_time(b"second"), 10)
    ended = replace(ANSWER, body=None, body_size=6, body_key=key)
    assert await store.finish(lease, NODE, ended) is Verdict.RECORDED
    await store.write_body(key, one_at_a_time(b"third"), 10)
    assert await store.finish(lease, NODE, ended) is Verdict.REPEATED
    result = await store.result(ACCOUNT, lease.task)
    assert result is not None
    assert (result.body, result.body_size, result.body_key) == (None, 6, key)
    assert await body_of(store, key) == b"second"


async def test_a_large_input_is_read_with_the_lease(store: Store) -> None:
    """A claim of a task with a large body carries its size alone; the lease gives its name."""
    content = b"0123456789" * 100_000
    await store.write_body("input", one_at_a_time(content), len(content))
    await store.create_task(new_task(body=None, body_size=len(content), body_key="input"))
    claim = await claim_one(store)
    assert (claim.body, claim.body_size) == (None, len(content))
    assert await store.input_of(claim.lease, NODE) == ("input", None, len(content))
    assert await body_of(store, "input") == content


async def test_a_task_cannot_name_a_body_that_is_not_there(store: Store) -> None:
    """Neither a task nor an end is recorded whose body was never written."""
    with pytest.raises(BodyMissing):
        await store.create_task(new_task(1, body=None, body_size=9, body_key="none"))
    assert await store.task(ACCOUNT, task_id(1)) is None
    lease = await accepted(store, 2)
    with pytest.raises(BodyMissing):
        await store.finish(lease, NODE, replace(ANSWER, body=None, body_size=9, body_key="none"))
    assert await store.holds(lease, NODE)


async def test_a_body_written_for_nothing_goes_away(store: Store) -> None:
    """The input of a create that gave an earlier task, and the result that came with a stale lease, are dropped."""
    first = new_task(1, idempotency_key="key")
    await store.create_task(first)
    await store.write_body("again", one_at_a_time(b"x"), 1)
    again = replace(first, id=task_id(2), body=None, body_size=1, body_key="again")
    assert await store.create_task(again) == task_id(1)
    await store.write_body("reused", one_at_a_time(b"x"), 1)
    with pytest.raises(KeyReused):
        await store.create_task(replace(again, body_key="reused", fingerprint=b"other"))
    lease = (await claim_one(store)).lease
    await store.release(lease)
    await store.write_body(result_key(lease), one_at_a_time(b"x"), 1)
    stale = replace(ANSWER, body=None, body_size=1, body_key=result_key(lease))
    assert await store.finish(lease, NODE, stale) is Verdict.STALE
    for key in ("again", "reused", result_key(lease)):
        with pytest.raises(BodyMissing):
            await body_of(store, key)


async def test_an_uploaded_result_outlives_a_restart(make: Callable[[Path], Store], tmp_path: Path) -> None:
    """A result that waits for its outcome is kept while its task has not ended; an input without a task is not."""
    store = make(tmp_path)
    await store.open()
    lease = await accepted(store, 1)
    ended = await accepted(store, 2)
    await store.cancel(ACCOUNT, ended.task, CANCELLED)
    for key in (result_key(lease), result_key(ended), "input"):
        await store.write_body(key, one_at_a_time(b"body"), 4)
    await store.close()
    await store.open()
    assert await body_of(store, result_key(lease)) == b"body"
    for key in (result_key(ended), "input"):
        with pytest.raises(BodyMissing):
            await body_of(store, key)
    await store.close()


async def test_an_upload_grows_from_where_it_is(store: Store) -> None:
    """Bytes are added at the end alone; what came before a break stays; and no body is there before it is whole."""
    key = result_key(await accepted(store))
    assert await store.upload(key) == Upload(0, complete=False)

    async def breaking() -> AsyncIterator[bytes]:
        yield b"a" * (CHUNK + 10)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await store.extend_upload(key, 0, breaking())
    assert await store.upload(key) == Upload(CHUNK + 10, complete=False)
    with pytest.raises(UploadOvertaken):
        await store.extend_upload(key, 5, one_at_a_time(b"x"))
    assert await store.extend_upload(key, CHUNK + 10, one_at_a_time(b"b" * CHUNK)) == 2 * CHUNK + 10
    with pytest.raises(BodyMissing):
        await body_of(store, key)
    expected = b"a" * (CHUNK + 10) + b"b" * CHUNK
    assert b"".join([piece async for piece in store.read_upload(key)]) == expected
    await store.complete_upload(key)
    assert await store.upload(key) == Upload(len(expected), complete=True)
    assert await body_of(store, key) == expected
    for start in (0, 1, CHUNK + 9, CHUNK + 10, len(expected) - 1, len(expected)):
        assert b"".join([piece async for piece in store.read_body(key, start)]) == expected[start:]


async def test_of_two_who_upload_one_goes_on(store: Store) -> None:
    """A connection that was given up, and the one that took its place, never mix their bytes."""
    key = result_key(await accepted(store))
    go_on = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"a" * CHUNK
        await go_on.wait()
        yield b"a" * CHUNK

    first = asyncio.create_task(store.extend_upload(key, 0, slow()))
    while (await store.upload(key)).kept < CHUNK:
        pass
    await store.extend_upload(key, CHUNK, one_at_a_time(b"b" * CHUNK))
    go_on.set()
    with pytest.raises(UploadOvertaken):
        await first
    await store.complete_upload(key)
    assert await body_of(store, key) == b"a" * CHUNK + b"b" * CHUNK


async def test_a_dropped_upload_begins_anew(store: Store) -> None:
    """Nothing is left of an upload that was dropped, or whose task ended otherwise."""
    lease = await accepted(store)
    key = result_key(lease)
    await store.extend_upload(key, 0, one_at_a_time(b"wrong"))
    await store.drop_upload(key)
    assert await store.upload(key) == Upload(0, complete=False)
    await store.extend_upload(key, 0, one_at_a_time(b"late"))
    await store.cancel(ACCOUNT, lease.task, CANCELLED)
    assert await store.upload(key) == Upload(0, complete=False)


async def test_an_upload_outlives_a_restart(make: Callable[[Path], Store], tmp_path: Path) -> None:
    """A dispatcher that was killed in the midst of an upload goes on where it was."""
    store = make(tmp_path)
    await store.open()
    key = result_key(await accepted(store))
    await store.extend_upload(key, 0, one_at_a_time(b"half of "))
    await store.close()
    await store.open()
    assert await store.extend_upload(key, 8, one_at_a_time(b"it")) == 10
    await store.complete_upload(key)
    assert await body_of(store, key) == b"half of it"
    await store.close()
