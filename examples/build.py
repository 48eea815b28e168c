"""Builds the images of the examples: `make examples`.

Each is what `docker build` makes of its folder. The thumbnail needs one thing more: its build cannot
reach a package index where the engine has no network, so Pillow is unpacked on the host, for the
Python and the processor of the base image, and copied in. Nothing is done twice: the engine keeps
the layers and `.cache/` the packages.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import docker
from docker.errors import BuildError, DockerException

EXAMPLES = Path(__file__).resolve().parent
CACHE = EXAMPLES.parent / ".cache" / "examples"
BASE = "fernd-base"
NAMES = ("hello", "thumbnail", "wordcount")

# The processor's name in the tags of wheels, by the engine's name for it.
PROCESSORS = {"amd64": "x86_64", "arm64": "aarch64"}
# The C libraries that a wheel may ask for and that Debian 12 and newer satisfy.
PLATFORMS = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")


class Unbuildable(Exception):
    """An image cannot be made; the text says why."""


def image_of(name: str) -> str:
    """Name the image of an example."""
    return f"fernd-example-{name}:latest"


def build(client: docker.DockerClient, name: str) -> str:
    """Build an example and give its image.

    Raises:
        Unbuildable: The build failed.
    """
    context = CACHE / name
    context.mkdir(parents=True, exist_ok=True)
    for source in (EXAMPLES / name).iterdir():
        if source.suffix == ".py" or source.name == "Dockerfile":
            shutil.copy2(source, context)
    requirements = EXAMPLES / name / "requirements.txt"
    if requirements.exists():
        unpack(requirements, context / "packages", *python_of_base(client))
    try:
        client.images.build(path=str(context), tag=image_of(name), network_mode="none", rm=True, forcerm=True)
    except BuildError as error:
        raise Unbuildable(f"{name}: {error}") from error
    return image_of(name)


def python_of_base(client: docker.DockerClient) -> tuple[str, str]:
    """Ask the base image for the version of its Python, such as `3.11`, and for its processor."""
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    version = client.containers.run(BASE, ["python3", "-c", ask], remove=True, network_mode="none")
    engine_name = client.images.get(BASE).attrs["Architecture"]
    return version.decode().strip(), PROCESSORS.get(engine_name, engine_name)


def unpack(requirements: Path, target: Path, version: str, processor: str) -> None:
    """Unpack the wheels that a function requires, unless they are there already.

    Raises:
        Unbuildable: There are none for this Python and processor, or they could not be fetched.
    """
    wanted = hashlib.sha256(f"{version} {processor}\n{requirements.read_text()}".encode()).hexdigest()
    stamp = target.with_name("packages.sha256")
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(target, ignore_errors=True)
    platforms = [f"--platform={platform}_{processor}" for platform in PLATFORMS]
    pip = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check", "install"]
    fetch = [
        *pip,
        *platforms,
        *("--no-deps", "--only-binary=:all:", "--require-hashes", "--no-compile"),
        *(f"--python-version={version}", f"--target={target}", f"--requirement={requirements}"),
    ]
    if subprocess.run(fetch, check=False).returncode:
        raise Unbuildable(f"pip found no wheels for Python {version} on {processor}: see its message above")
    stamp.write_text(wanted)


def main() -> int:
    """Build all examples and print their images."""
    CACHE.mkdir(parents=True, exist_ok=True)
    try:
        with (CACHE / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two builds at once would share the contexts
            client = docker.from_env()
            for name in NAMES:
                print(build(client, name))
    except (Unbuildable, DockerException) as error:
        print(f"examples: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
