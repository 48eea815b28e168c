"""The real engine, the misbehaving function's images, and a started host."""

from __future__ import annotations

import subprocess
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
from tests.images import BASE, build, remove

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def client() -> Iterator[docker.APIClient]:
    """The engine as somebody else on the machine uses it."""
    client = docker.APIClient(version="auto")
    yield client
    client.close()


@pytest.fixture(scope="session")
def images(client: docker.APIClient) -> Iterator[None]:
    subprocess.run([ROOT / "deploy" / "base-image.sh"], check=True, capture_output=True)
    misbehave = {"misbehave.py": (Path(__file__).parent / "misbehave.py").read_text()}
    copied = f"FROM {BASE}\nCOPY misbehave.py /misbehave.py\n"
    made = {
        IMAGE: 'CMD ["/usr/bin/python3", "/misbehave.py"]\n',
        NO_COMMAND_IMAGE: "ENTRYPOINT []\nCMD []\n",
        WRONG_COMMAND_IMAGE: 'ENTRYPOINT []\nCMD ["/no/such/program"]\n',
        ENTRYPOINT_IMAGE: 'VOLUME /data\nUSER 1234:1234\nENTRYPOINT ["/usr/bin/python3"]\nCMD ["/misbehave.py"]\n',
    }
    for image, more in made.items():
        build(client, image, copied + more, misbehave)
    yield
    for image in made:
        remove(client, image)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(images: None) -> AsyncIterator[ContainerHost]:
    """A started host. Its containers get little time to start and to stop, so that the tests are short."""
    async with running_host() as host:
        yield host


@pytest.fixture
def call(host: ContainerHost, tmp_path: Path) -> Caller:
    return Caller(host, tmp_path)
