"""The functions that docs/writing-functions.md shows: built from its blocks, and run by fernd."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest
from docker.errors import ImageNotFound

from tests.docs.blocks import DOCS, blocks
from tests.e2e.up import SECONDS, Up

pytestmark = [pytest.mark.engine, pytest.mark.timeout(180)]

FILES = {block.words: block.text for block in blocks(DOCS / "writing-functions.md") if block.mark == "file"}

Fernd = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    up = Up(tmp_path_factory.mktemp("up") / "d")
    yield up
    assert up.stop() == 0


@pytest.fixture
def fernd(up: Up) -> Fernd:
    """Run a command."""

    def run(*arguments: str, code: int = 0, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [sys.executable, "-m", "agent.cli", *arguments],
            env=up.environ | {"PATH": os.environ["PATH"]},
            input=stdin,
            capture_output=True,
            check=False,
            timeout=SECONDS,
        )
        assert done.returncode == code, done.stderr
        return done

    return run


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Callable[[str, str], str]]:
    """Build the image of a folder of the page, with other lines in place of those that name its base image."""
    made: list[str] = []

    def build(folder: str, base: str) -> str:
        context = tmp_path / folder
        context.mkdir(exist_ok=True)
        for path, text in FILES.items():
            if path.startswith(f"{folder}/"):
                (context / Path(path).name).write_text(text)
        written = (context / "Dockerfile").read_text()
        assert written.startswith("FROM ")
        (context / "Dockerfile").write_text(re.sub(r"\AFROM .*\n", base, written))
        made.append(f"fernd-docs-{folder}:{uuid.uuid4().hex[:8]}")
        subprocess.run(
            ["docker", "build", "--quiet", "--tag", made[-1], "."],
            cwd=context,
            env=os.environ | {"DOCKER_BUILDKIT": "0"},
            check=True,
            capture_output=True,
            timeout=120,
        )
        return made[-1]

    yield build
    client = docker.from_env()
    for image in made:
        try:
            client.images.remove(image, force=True)
        except ImageNotFound:
            continue
    client.close()


def greets(fernd: Fernd, name: str, image: str) -> None:
    """Create a function, call it, and hold its answer and its progress against what the page says."""
    fernd("function", "create", name, "--image", image)
    done = fernd("invoke", name, "-q", "name=Ada", "-b", "some bytes")
    assert json.loads(done.stdout) == {"greeting": "Hello, Ada!", "bytes": 10}
    assert b" 50 % half way\n" in done.stderr


def test_python(fernd: Fernd, build: Callable[[str, str], str]) -> None:
    """It answers; and an exception in it is what the page says that it is, with its traceback in the log."""
    greets(fernd, "greet-python", build("python", "FROM fernd-base\n"))
    done = fernd("invoke", "greet-python", code=1)
    assert b"error: BAD_RESPONSE" in done.stderr
    assert b"| KeyError: 'name'" in done.stderr


def test_job(fernd: Fernd, build: Callable[[str, str], str]) -> None:
    """It counts the words on its stdin."""
    image = build("job", "FROM fernd-base\n")
    fernd("function", "create", "count", "--image", image, "--mode", "job")
    done = fernd("invoke", "count", "-b", "-", stdin=b"so much depends upon")
    assert json.loads(done.stdout) == {"words": 4}
    assert b" 90 % writes\n" in done.stderr


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_node(fernd: Fernd, build: Callable[[str, str], str], tmp_path: Path) -> None:
    """It answers, in an image with this machine's own Node: no registry is needed."""
    node = Path(shutil.which("node") or "").resolve()
    base = "FROM scratch\n" + "".join(_copied(file, tmp_path / "node") for file in [node, *_libraries(node)])
    greets(fernd, "greet-node", build("node", f"{base}ENV PATH={node.parent}\n"))


@pytest.mark.skipif(shutil.which("go") is None, reason="go is not installed")
def test_go(fernd: Fernd, build: Callable[[str, str], str], tmp_path: Path) -> None:
    """It answers, compiled by this machine's own Go, in an image that holds nothing else."""
    source = tmp_path / "function.go"
    source.write_text(FILES["go/function.go"])
    (tmp_path / "go").mkdir()
    environ = os.environ | {"CGO_ENABLED": "0", "GOCACHE": str(tmp_path / "cache"), "GO111MODULE": "off"}
    subprocess.run(
        ["go", "build", "-o", str(tmp_path / "go" / "function"), str(source)], env=environ, check=True, timeout=150
    )
    _, _, last_stage = FILES["go/Dockerfile"].partition("\n\n")
    FILES["go/Dockerfile"] = last_stage.replace("--from=build /function", "function")
    greets(fernd, "greet-go", build("go", "FROM scratch\n"))


def _copied(file: Path, context: Path) -> str:
    """Put a file into a build's context, and give the line that puts it into the image where it is here."""
    context.mkdir(exist_ok=True)
    name = f"{uuid.uuid4().hex}"
    shutil.copy(file, context / name)
    return f"COPY {name} {file}\n"


def _libraries(program: Path) -> list[Path]:
    said = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True).stdout
    return [Path(found) for found in re.findall(r"(/\S+) \(0x", said)]
