"""A gibibyte goes to a function and another one comes back, and neither program holds more than pieces of it."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos.audit import leavings
from tests.chaos.programs import Program
from tests.chaos.tally import Tally
from tests.chaos.workload import Entry
from tests.chaos.world import World, world
from tests.images import built

pytestmark = [
    pytest.mark.engine,
    pytest.mark.chaos,
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]

MIB = 1024 * 1024
SIZE = 1024 * MIB
PIECE = 256 * 1024

HELD_MIB = 64
"""More than a program may grow by; a body that it kept whole would be sixteen times that."""

LIMITS = {"FERND_LIMITS_BODY": str(SIZE), "FERND_LIMITS_RESULT": str(SIZE)}

FUNCTION = f"""
import hashlib, os
from http.server import BaseHTTPRequestHandler, HTTPServer

class Function(BaseHTTPRequestHandler):
    def do_POST(self):
        seen, left = hashlib.sha256(), int(self.headers["Content-Length"])
        while left:
            piece = self.rfile.read(min(left, {PIECE}))
            seen.update(piece)
            left -= len(piece)
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", "{SIZE}")
        self.end_headers()
        for number in range({SIZE // PIECE}):
            self.wfile.write(hashlib.sha256(seen.digest() + number.to_bytes(8, "big")).digest() * {PIECE // 32})

HTTPServer(("", int(os.environ["PORT"])), Function).serve_forever()
"""


class Memory:
    """The resident memory of a program: what it has now, and the most that it had since."""

    def __init__(self, program: Program) -> None:
        self._process = Path("/proc") / str(program.pid)
        (self._process / "clear_refs").write_text("5")  # the peak counts from here
        self.before = self._mib("VmRSS")

    @property
    def peak(self) -> float:
        return self._mib("VmHWM")

    def _mib(self, name: str) -> float:
        lines = (self._process / "status").read_text().splitlines()
        [line] = [line for line in lines if line.startswith(f"{name}:")]
        return int(line.split()[1]) / 1024


class Input:
    """Random bytes, too many to hold, and their hash."""

    def __init__(self) -> None:
        self._piece = os.urandom(PIECE)
        self.hash = hashlib.sha256()

    async def pieces(self) -> AsyncIterator[bytes]:
        for number in range(SIZE // PIECE):
            piece = number.to_bytes(8, "big") + self._piece[8:]
            self.hash.update(piece)
            yield piece


async def test_a_gibibyte_passes_both_ways(tmp_path: Path, tally: Tally) -> None:
    """The limits raised to a gibibyte, input and result arrive byte for byte, and memory stays flat on both sides."""
    with built("gigabyte", "function.py", FUNCTION) as image:
        async with world(tmp_path, tally, "gigabyte", environ=LIMITS) as made:
            function = await made.client.create_function("http", image)
            needs = {"timeout": 300, "cpuCount": 1, "memSize": 128}
            await made.client.ask("POST", f"/v1/function/{function}/capabilities", json=needs)
            programs: list[Program] = [made.dispatcher, made.places[0].agent]
            memories = [Memory(program) for program in programs]
            began = time.monotonic()
            entry, sent = await _submit(made, function)
            assert await _received(made, entry) == _expected(sent)
            tally.measured("1 GiB to a function and 1 GiB back", time.monotonic() - began)
            for program, memory in zip(programs, memories, strict=True):
                tally.grew(f"memory of the {program.kind} while 1 GiB passes both ways", memory.before, memory.peak)
                assert memory.peak - memory.before < HELD_MIB
            tally.audited += 1
            assert await leavings(made) == []


async def _submit(made: World, function: str) -> tuple[Entry, bytes]:
    """Create the task and give the hash of its input."""
    content = Input()
    headers = {"Authorization": made.client.token, "Content-Type": "application/octet-stream"}
    url = f"{made.client.url}/v1/task/{function}"
    async with made.client.http.post(url, data=content.pieces(), headers=headers, timeout=None) as answer:
        assert answer.status == 201, await answer.text()
        entry = Entry((await answer.json())["id"], "http", "", SIZE, silent=True)
    made.client.ledger.append(entry)
    return entry, content.hash.digest()


async def _received(made: World, entry: Entry) -> bytes:
    """Wait for the result, and give its hash."""
    url = f"{made.client.url}/v1/task/{entry.id}/result"
    headers = {"Authorization": made.client.token, "Prefer": "wait=10"}
    while True:
        async with made.client.http.get(url, headers=headers, timeout=None) as answer:
            if "X-Task-State" not in answer.headers:
                continue
            assert answer.status == 200, await answer.text()
            received = hashlib.sha256()
            async for piece in answer.content.iter_chunked(PIECE):
                received.update(piece)
            return received.digest()


def _expected(sent: bytes) -> bytes:
    """Give the hash of what the function makes of an input with this hash."""
    made = hashlib.sha256()
    for number in range(SIZE // PIECE):
        made.update(hashlib.sha256(sent + number.to_bytes(8, "big")).digest() * (PIECE // 32))
    return made.digest()
