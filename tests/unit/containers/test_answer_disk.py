"""An answer that the disk has no room for."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.containers.answer import AnswerBody, AnswerNotKept
from agent.protocol import INLINE_LIMIT


async def test_an_answer_that_is_not_complete_is_none(tmp_path: Path) -> None:
    """The first byte that is lost ends it: nothing is added, it is not given out, and a small answer needs no disk."""
    full = tmp_path / "body"
    full.symlink_to("/dev/full")  # can be opened, and has no room
    body = AnswerBody(full, 10 * INLINE_LIMIT)
    await body.add(bytes(INLINE_LIMIT))
    with pytest.raises(AnswerNotKept, match="No space left"):
        await body.add(b"x")
    with pytest.raises(AnswerNotKept):
        await body.add(b"x")
    with pytest.raises(AnswerNotKept):
        await body.close()
    await body.discard()
    assert not full.is_symlink()
    small = AnswerBody(full, 10 * INLINE_LIMIT)
    await small.add(bytes(INLINE_LIMIT))
    assert await small.close() == (bytes(INLINE_LIMIT), None)
