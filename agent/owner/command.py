"""The owner's own command: it says whether work is taken, and why not."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import suppress

REASON_LENGTH = 200
_FIRST_BYTES = 4096


async def ask(command: Sequence[str], limit: float) -> str:
    """Run a command and give why no work is taken; empty: it says yes, by exit code 0.

    One that cannot be run, or does not end in time, says no: what the owner relies on must not fail silently. What
    it started in its process group ends with it.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return f"available_when cannot be run: {getattr(error, 'strerror', None) or error}"
    assert process.stdout is not None  # noqa: S101 - asked for, above
    try:
        async with asyncio.timeout(limit):
            printed = await process.stdout.read(_FIRST_BYTES)
            while await process.stdout.read(_FIRST_BYTES):
                pass  # only its first line is wanted, and a full pipe would hold it up
            code = await process.wait()
    except TimeoutError:
        return f"available_when did not end within {limit:g} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    if code == 0:
        return ""
    line = next(iter(printed.decode("utf-8", "replace").splitlines()), "")
    reason = "".join(letter for letter in line if letter.isprintable()).strip()[:REASON_LENGTH]
    return reason or f"available_when said no, with exit code {code}"
