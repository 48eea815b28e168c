"""The real engine, the misbehaving function's images, and a started host."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import docker
import pytest
import pytest_asyncio

from agent.containers.host import ContainerHost
from tests.contract.containers.calls import (
    ENTRYPOINT_IMAGE,
    IMAGE,
    NO_COMMAND_IMAGE,
    WRONG_COMMAND_IMAGE,
    Caller,
    running_host,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def client() -> Iterator[docker.APIClient]:
    """The engine as somebody else on the machine uses it."""
    client = docker.APIClient(version="auto")
    yield client
    client.close()


@pytest.fixture(scope="session")
def images(client: docker.APIClient) -> None:
    base = subprocess.run(
        [ROOT / "deploy" / "base-image.sh"], check=True, capture_output=True, text=True
    ).stdout.strip()
    copied = f"FROM {base}\nCOPY misbehave.py /misbehave.py\n"
    _build(client, IMAGE, copied + 'CMD ["/usr/bin/python3", "/misbehave.py"]\n')
    _build(client, NO_COMMAND_IMAGE, copied + "ENTRYPOINT []\nCMD []\n")
    _build(client, WRONG_COMMAND_IMAGE, copied + 'ENTRYPOINT []\nCMD ["/no/such/program"]\n')
    _build(
        client,
        ENTRYPOINT_IMAGE,
        copied + 'VOLUME /data\nUSER 1234:1234\nENTRYPOINT ["/usr/bin/python3"]\nCMD ["/misbehave.py"]\n',
    )


def _build(client: docker.APIClient, tag: str, dockerfile: str) -> None:
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        for name, content in [
            ("Dockerfile", dockerfile.encode()),
            ("misbehave.py", (Path(__file__).parent / "misbehave.py").read_bytes()),
        ]:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    context.seek(0)
    errors = [
        line["error"]
        for line in client.build(fileobj=context, custom_context=True, tag=tag, rm=True, decode=True)
        if "error" in line
    ]
    assert not errors, errors


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(images: None) -> AsyncIterator[ContainerHost]:
    """A started host. Its containers get little time to start and to stop, so that the tests are short."""
    async with running_host() as host:
        yield host


@pytest.fixture
def call(host: ContainerHost, tmp_path: Path) -> Caller:
    return Caller(host, tmp_path)
