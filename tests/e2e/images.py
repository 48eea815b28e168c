"""Images of functions for tests."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager

import docker

DOCKERFILE = 'FROM fernd-base\nCOPY {name} /\nCMD ["python3", "-u", "/{name}"]\n'


@contextmanager
def built(tag: str, name: str, program: str) -> Iterator[None]:
    """Have an image of a Python program; it is gone at the end."""
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        for file, content in (("Dockerfile", DOCKERFILE.format(name=name)), (name, program)):
            member = tarfile.TarInfo(file)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content.encode()))
    context.seek(0)
    client = docker.from_env()
    try:
        client.images.build(fileobj=context, custom_context=True, tag=tag, rm=True, forcerm=True)
        yield
        client.images.remove(tag, force=True)
    finally:
        client.close()
