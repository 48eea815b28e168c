"""Images for functions under test, of this run alone: others on the same engine have their own."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress

import docker
import docker.errors

from tests.this_run import RUN, is_over

BASE = "fernd-base:latest"

_PREFIX = "fernd-test-"


def reference(name: str) -> str:
    """Name an image of this run."""
    return f"{_PREFIX}{name}:{RUN}"


def build(client: docker.APIClient, image: str, dockerfile: str, files: Mapping[str, str]) -> None:
    """Build an image; what earlier runs left on the engine that were killed goes first."""
    remove_leftovers(client)
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        for name, content in {"Dockerfile": dockerfile, **files}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content.encode())
            archive.addfile(member, io.BytesIO(content.encode()))
    context.seek(0)
    lines = client.build(fileobj=context, custom_context=True, tag=image, rm=True, forcerm=True, decode=True)
    errors = [line["error"] for line in lines if "error" in line]
    assert not errors, errors


@contextmanager
def built(name: str, file: str, program: str) -> Iterator[str]:
    """Have an image of a Python program, on the machine's engine."""
    image = reference(name)
    dockerfile = f'FROM {BASE}\nCOPY {file} /\nCMD ["python3", "-u", "/{file}"]\n'
    with closing(docker.APIClient(version="auto")) as client:
        build(client, image, dockerfile, {file: program})
        yield image
        remove(client, image)


def remove(client: docker.APIClient, image: str) -> None:
    """Remove an image that may have gone by another way."""
    with suppress(docker.errors.APIError):
        client.remove_image(image, force=True)


def remove_leftovers(client: docker.APIClient) -> None:
    """Remove the images of runs that are over, with the containers that were made of them."""
    tags = [tag for image in client.images() for tag in image["RepoTags"] or ()]
    for tag in tags:
        if tag.startswith(_PREFIX) and is_over(tag.rpartition(":")[2]):
            for container in client.containers(all=True, filters={"ancestor": tag}):
                with suppress(docker.errors.APIError):
                    client.remove_container(container["Id"], force=True, v=True)
            remove(client, tag)
