"""Small parts: headers, answers, exit codes, the kernel's count, image references, the probe's program."""

from __future__ import annotations

import asyncio
import hashlib
import os
import struct
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from agent.containers import firewall, oom, probe_image
from agent.containers.answer import AnswerBody, AnswerTooLarge
from agent.containers.averages import Averages
from agent.containers.engine import _split_reference
from agent.containers.evidence import signal_name
from agent.containers.http_call import request_headers
from agent.containers.images import without_paths
from agent.containers.job import JobOutput
from agent.containers.manifest import Layer, bytes_missing
from agent.containers.oom import OomCounter
from agent.containers.output import Capture
from agent.protocol import INLINE_LIMIT


def files(directory: Path) -> list[Path]:
    return list(directory.iterdir())


def test_headers_that_go_on() -> None:
    """Hop-by-hop headers, those named in Connection, and credentials stay behind; ours replace the caller's."""
    given = [
        ("X-Keep", "1"),
        ("connection", "x-drop , close"),
        ("X-Drop", "1"),
        ("AUTHORIZATION", "secret"),
        ("cookie", "secret"),
        ("Upgrade", "h2c"),
        ("x-task-id", "forged"),
        ("X-Keep", "2"),
    ]
    assert request_headers(given, {"X-Task-Id": "t"}) == [("X-Keep", "1"), ("X-Keep", "2"), ("X-Task-Id", "t")]


@pytest.mark.parametrize("size", [0, 1, INLINE_LIMIT, INLINE_LIMIT + 1, 3 * INLINE_LIMIT + 7])
async def test_answers_of_all_sizes(tmp_path: Path, size: int) -> None:
    """A body is whole in memory up to the inline limit, and whole in its file above it."""
    body, content = AnswerBody(tmp_path / "body", 10 * INLINE_LIMIT), os.urandom(size)
    for at in range(0, size, 60_000):
        await body.add(content[at : at + 60_000])
    inline, path = await body.close()
    assert (inline is None) == (path is not None) == (size > INLINE_LIMIT)
    assert (inline if path is None else path.read_bytes()) == content
    assert (body.size, body.sha256) == (size, hashlib.sha256(content).hexdigest())
    await body.discard()
    await body.discard()
    assert files(tmp_path) == []


async def test_answers_that_are_too_large(tmp_path: Path) -> None:
    """The first byte over the limit is refused; what was written is removed."""
    body = AnswerBody(tmp_path / "body", INLINE_LIMIT + 10)
    await body.add(b"x" * (INLINE_LIMIT + 10))
    with pytest.raises(AnswerTooLarge):
        await body.add(b"x")
    await body.discard()
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ([b'{"a": ', b"1}\n"], "application/json"),
        ([b"[1]"], "application/json"),
        ([b"{not json"], "text/plain; charset=utf-8"),
        ([b"1"], "text/plain; charset=utf-8"),
        ([b""], "text/plain; charset=utf-8"),
        (["ä".encode()[:1], "ä".encode()[1:]], "text/plain; charset=utf-8"),
        (["ä".encode()[:1]], "application/octet-stream"),
        ([b"\xff", b"then text"], "application/octet-stream"),
        ([b"x" * (INLINE_LIMIT + 1)], "text/plain; charset=utf-8"),
    ],
)
async def test_content_type_of_a_job(tmp_path: Path, written: list[bytes], expected: str) -> None:
    """A job's result is JSON, text or bytes by what it is, however it came."""
    body = AnswerBody(tmp_path / "body", 10 * INLINE_LIMIT)
    output = JobOutput(body, Capture(lambda *_: None, lambda *_: None))
    for piece in written:
        await output.take("stdout", piece)
    assert output.content_type() == expected
    await body.discard()


@pytest.mark.parametrize(
    ("code", "expected"),
    [(137, "SIGKILL"), (139, "SIGSEGV"), (143, "SIGTERM"), (128, ""), (1, ""), (0, ""), (255, ""), (-1, "")],
)
def test_signals_by_exit_code(code: int, expected: str) -> None:
    """An exit code over 128 that is a signal's is named."""
    assert signal_name(code) == expected


CONTAINER = "ab" * 32


@pytest.mark.parametrize(
    ("cgroup", "file", "content"),
    [
        (
            f"4:memory:/docker/{CONTAINER}\n1:pids:/docker/{CONTAINER}\n",
            f"memory/docker/{CONTAINER}/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
        ),
        (
            f"0::/system.slice/docker-{CONTAINER}.scope\n",
            f"system.slice/docker-{CONTAINER}.scope/memory.events",
            "low 0\noom 4\noom_kill 3\noom_group_kill 0\n",
        ),
    ],
    ids=["version 1", "version 2"],
)
async def test_the_kernels_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cgroup: str, file: str, content: str
) -> None:
    """Kills are counted with both versions of control groups, from a baseline; what was seen last stands."""
    monkeypatch.setattr(oom, "PROC", tmp_path / "proc")
    monkeypatch.setattr(oom, "CGROUP", tmp_path / "cgroup")
    (tmp_path / "proc" / "7").mkdir(parents=True)
    (tmp_path / "proc" / "7" / "cgroup").write_text(cgroup)
    counter_file = tmp_path / "cgroup" / file
    counter_file.parent.mkdir(parents=True)
    counter_file.write_text(content)
    counter = await OomCounter.of(CONTAINER, 7)
    assert counter.kills() == 3
    counter.forget()
    assert counter.kills() == 0
    counter_file.write_text(content.replace("oom_kill 3", "oom_kill 4"))
    assert counter.kills() == 1
    counter_file.unlink()
    assert counter.kills() == 1
    assert (await OomCounter.of("cd" * 32, 7)).kills() is None
    assert (await OomCounter.of(CONTAINER, 8)).kills() is None
    counter.close()


@pytest.mark.parametrize(("tellings", "expected"), [(1, 0), (2, 1), (3, 1)])
async def test_what_the_kernel_told_outlives_its_count(tmp_path: Path, tellings: int, expected: int) -> None:
    """One telling is of the removal of the control group; any other is of a lack of memory."""
    file = tmp_path / "memory.oom_control"
    file.write_text("oom_kill 4\n")
    told = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    counter = OomCounter(file, told)
    counter.forget()  # of an earlier task
    file.unlink()
    assert counter.kills() == 0
    os.eventfd_write(told, tellings)
    assert counter.kills() == expected
    counter.close()
    assert counter.kills() == expected


async def test_the_kernels_count_is_read_when_the_first_process_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the kernel tells nobody, nobody has to ask in time all the same."""
    process = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE)
    monkeypatch.setattr(oom, "PROC", tmp_path / "proc")
    monkeypatch.setattr(oom, "CGROUP", tmp_path / "cgroup")
    (tmp_path / "proc" / str(process.pid)).mkdir(parents=True)
    (tmp_path / "proc" / str(process.pid) / "cgroup").write_text(f"0::/docker/{CONTAINER}\n")
    file = tmp_path / "cgroup" / "docker" / CONTAINER / "memory.events"
    file.parent.mkdir(parents=True)
    file.write_text("oom_kill 0\n")
    counter = await OomCounter.of(CONTAINER, process.pid)
    file.write_text("oom_kill 1\n")
    assert process.stdin is not None
    process.stdin.close()
    await process.wait()
    async with asyncio.timeout(5):
        while counter._process is not None:
            await asyncio.sleep(0.01)
    file.unlink()
    assert counter.kills() == 1


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("hello", ("hello", "latest")),
        ("hello:1", ("hello", "1")),
        ("host:5000/hello", ("host:5000/hello", "latest")),
        ("host:5000/a/hello:1.2", ("host:5000/a/hello", "1.2")),
        ("host/hello@sha256:ab", ("host/hello", "sha256:ab")),
        ("host/hello:1@sha256:ab", ("host/hello:1", "sha256:ab")),
    ],
)
def test_image_references(reference: str, expected: tuple[str, str]) -> None:
    """A reference without a tag means latest, never every tag."""
    assert _split_reference(reference) == expected


def test_averages() -> None:
    """An average follows what is measured, and only so many are kept."""
    averages = Averages()
    assert averages.get("a") is None
    averages.note("a", 1.0)
    assert averages.get("a") == 1.0
    for _ in range(50):
        averages.note("a", 2.0)
    assert averages.get("a") == pytest.approx(2.0, abs=0.01)
    for number in range(2000):
        averages.note(str(number), 1.0)
    assert averages.get("a") is None
    assert averages.get("1999") == 1.0


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("write /var/lib/docker/tmp/GetImageBlob1: no space left on device", "write …: no space left on device"),
        ('open "/var/lib/docker/x": denied', 'open "…": denied'),
        ('Get "https://r.example.org/v2/a/b": EOF', 'Get "https://r.example.org/v2/a/b": EOF'),
        ("manifest for 127.0.0.1:5000/a/b:latest not found", "manifest for 127.0.0.1:5000/a/b:latest not found"),
    ],
)
def test_the_engines_words_without_paths(said: str, told: str) -> None:
    """A path of the engine's machine is left out; the address of a registry and the name of an image stay."""
    assert without_paths(said) == told


def test_name_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only IPv4 name servers that a container can be sent to count, and a missing file means none."""
    monkeypatch.setattr(firewall, "RESOLVERS", tmp_path / "resolv.conf")
    assert firewall._name_servers() == []
    (tmp_path / "resolv.conf").write_text(
        "# nameserver 10.0.0.1\nnameserver 127.0.0.53\nnameserver  10.0.0.2\nnameserver fe80::1\nnameserver x\n"
    )
    assert firewall._name_servers() == ["10.0.0.2"]


def test_the_layers_that_are_missing() -> None:
    """Those with which some image that is here begins need not be fetched; the same one higher up must be."""
    layers = [Layer(1, "a"), Layer(10, "b"), Layer(100, "c")]
    assert bytes_missing(layers, []) == 111
    assert bytes_missing(layers, [["a", "x"], ["a", "b"], []]) == 100
    assert bytes_missing(layers, [["b", "c"], ["x", "b", "c"]]) == 111
    assert bytes_missing(layers, [["a", "b", "c", "d"]]) == 0


@pytest.mark.parametrize(("arch", "machine"), [("x86_64", 62), ("aarch64", 183)])
def test_the_probes_program(arch: str, machine: int) -> None:
    """The layer holds one executable for the architecture, and its entry point is its code."""
    layer = probe_image.layer(arch)
    assert layer is not None
    with tarfile.open(fileobj=BytesIO(layer)) as tar:
        [entry] = tar.getmembers()
        assert (entry.name, entry.mode) == ("probe", 0o755)
        content = tar.extractfile(entry)
        assert content is not None
        program = content.read()
    assert program[:4] == b"\x7fELF"
    assert struct.unpack_from("<H", program, 18) == (machine,)
    assert struct.unpack_from("<Q", program, 24) == (0x400000 + 120,)
    assert program.endswith(bytes.fromhex("02001f90") + bytes(12) + b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    assert probe_image.layer("riscv64") is None


@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="runs the x86_64 program")
def test_the_probes_program_runs(tmp_path: Path) -> None:
    """Without an argument it ends at once, with exit code 0."""
    layer = probe_image.layer("x86_64")
    assert layer is not None
    with tarfile.open(fileobj=BytesIO(layer)) as tar:
        tar.extractall(tmp_path, filter="data")
    assert subprocess.run([tmp_path / "probe"], check=False, timeout=5).returncode == 0
