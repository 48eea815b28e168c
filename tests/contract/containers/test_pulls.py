"""What becomes of a pull: from Debian's registry behind a password, and from one that does everything wrong."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import docker
import pytest
from structlog.testing import capture_logs

from agent.config import ImagesConfig
from agent.containers import images
from agent.containers.engine import Engine, EngineUnavailable
from agent.containers.images import Images, ImageUnavailable, NoDisk
from agent.containers.manifest import layers_of
from agent.protocol import Pull
from tests.contract.containers.registry import Registry

pytestmark = pytest.mark.engine

PASSWORD = "not-to-be-logged"


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = Engine()
    yield engine
    await engine.close()


@pytest.fixture
async def bad(engine: Engine) -> AsyncIterator[Registry]:
    async with Registry((await engine.connect()).arch) as registry:
        yield registry
        await engine.remove_image(registry.image)


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[str]:
    """The address of a real registry that lets in whoever knows the password."""
    if not shutil.which("docker-registry") or not shutil.which("htpasswd"):
        pytest.skip("docker-registry and htpasswd are Debian's packages docker-registry and apache2-utils")
    known = subprocess.run(["htpasswd", "-Bbn", "me", PASSWORD], check=True, capture_output=True, text=True).stdout
    (tmp_path / "htpasswd").write_text(known)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    settings = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
        "http": {"addr": address, "secret": "x"},
        "auth": {"htpasswd": {"realm": "fernd", "path": str(tmp_path / "htpasswd")}},
    }
    (tmp_path / "registry.json").write_text(json.dumps(settings))  # JSON is YAML too
    with (tmp_path / "registry.log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", tmp_path / "registry.json"], stdout=log, stderr=log)
    try:
        _wait_for(address)
        yield address
    finally:
        process.kill()
        process.wait()


def _wait_for(address: str) -> None:
    host, _, port = address.partition(":")
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, "the registry does not answer"
            time.sleep(0.02)
        else:
            return


def logins(tmp_path: Path, registry: str, password: str = PASSWORD) -> Path:
    file = tmp_path / "logins.json"
    auth = base64.b64encode(f"me:{password}".encode()).decode()
    file.write_text(json.dumps({"auths": {registry: {"auth": auth}}}))
    return file


async def pull(
    engine: Engine,
    image: str,
    *,
    policy: Pull = "missing",
    limit: float = 20.0,
    stall: float = 10.0,
    file: Path | None = None,
) -> str:
    """Pull an image; gives its id."""
    config = ImagesConfig(pull_timeout=limit, stall_timeout=stall, credentials=file)
    store = Images(engine, config, chance=lambda: 0.01)
    return (await store.ensure(image, lambda: None, lambda *_: None, policy)).id


async def test_a_registry_with_a_password(
    engine: Engine, bad: Registry, locked: str, tmp_path: Path, client: docker.APIClient
) -> None:
    """By tag and by digest with the right password; not without one, nor with a wrong one; and none is ever logged."""
    known = await pull(engine, bad.image)
    image = f"{locked}/mine/small:v1"
    await asyncio.to_thread(client.tag, known, image)
    said = await asyncio.to_thread(client.push, image, auth_config={"username": "me", "password": PASSWORD})
    digest = next(
        json.loads(line)["aux"]["Digest"] for line in said.splitlines() if "Digest" in json.loads(line).get("aux", {})
    )
    by_digest = f"{locked}/mine/small@{digest}"
    for gone in (image, bad.image):
        await engine.remove_image(gone)
    with capture_logs() as logged:
        for file in (None, logins(tmp_path, locked, "wrong-password")):
            with pytest.raises(ImageUnavailable, match=r"no basic auth|unauthorized|authentication required"):
                await pull(engine, image, file=file)
        assert await pull(engine, image, file=logins(tmp_path, locked)) == known
        await engine.remove_image(image)
        assert await pull(engine, by_digest, file=logins(tmp_path, locked)) == known
        absent = f"{locked}/mine/small@sha256:{'0' * 64}"
        with pytest.raises(ImageUnavailable, match=r"unknown|not found"):
            await pull(engine, absent, file=logins(tmp_path, locked))
    await engine.remove_image(by_digest)
    assert PASSWORD not in str(logged)
    assert "wrong-password" not in str(logged)
    assert PASSWORD not in (tmp_path / "registry.log").read_text()


async def test_a_registry_that_gives_tokens(engine: Engine, bad: Registry, tmp_path: Path) -> None:
    """The login is exchanged for a token where the registry wants one."""
    bad.login = f"me:{PASSWORD}"
    with pytest.raises(ImageUnavailable):
        await pull(engine, bad.image)
    assert await pull(engine, bad.image, file=logins(tmp_path, bad.address))


@pytest.mark.parametrize(
    ("status", "words", "asked_again"),
    [
        (401, "unauthorized|denied|no basic auth", False),
        (403, "denied|forbidden|403", False),
        (404, "not found|unknown|404", False),
        (429, "toomanyrequests|429|[Tt]oo many", True),
        (500, "500", True),
    ],
)
async def test_refusals(engine: Engine, bad: Registry, status: int, words: str, asked_again: bool) -> None:
    """Each ends as an image that cannot be had, with the registry's reason; what may pass is tried again."""
    bad.refuses = status
    with capture_logs() as logged, pytest.raises(ImageUnavailable, match=words):
        await pull(engine, bad.image)
    tries = [line for line in logged if line["event"] == "pull failed"]
    assert (len(tries) > 1) is asked_again, tries


async def test_what_arrives_is_not_what_was_named(engine: Engine, bad: Registry) -> None:
    """Neither a layer nor a manifest that is not what its digest says ever becomes an image, and none is left."""
    bad.corrupt = True
    with pytest.raises(ImageUnavailable, match=r"verification failed|within"):
        await pull(engine, bad.image, limit=8.0)
    bad.corrupt = False
    with pytest.raises(ImageUnavailable, match=r"verif|digest|unknown|not found"):
        await pull(engine, f"{bad.address}/small@sha256:{'0' * 64}")
    assert bad.image not in await engine.images()


async def test_a_registry_that_stalls(engine: Engine, bad: Registry) -> None:
    """A pull without a word is given up, long before its own time limit, and the registry may come back."""
    bad.open.clear()
    with pytest.raises(ImageUnavailable, match=r"nothing came for 0.5 s"):
        await pull(engine, bad.image, stall=0.5)
    bad.open.set()
    assert await pull(engine, bad.image)


async def test_a_layer_that_breaks_off(engine: Engine, bad: Registry) -> None:
    """The engine asks for it again; where it goes on to break off, the pull's own time limit ends it."""
    bad.breaks = 1
    assert await pull(engine, bad.image)
    await engine.remove_image(bad.image)
    bad.breaks = 100
    with pytest.raises(ImageUnavailable, match=r"within 1 s"):
        await pull(engine, bad.image, limit=1.0)


async def test_an_engine_that_goes_away(engine: Engine, bad: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is not held against the image: it is said as what it is, after some tries."""
    tries = 0

    async def away(*_: object, **__: object) -> None:
        nonlocal tries
        tries += 1
        raise EngineUnavailable("the engine went away")

    monkeypatch.setattr(engine, "pull", away)
    with pytest.raises(EngineUnavailable, match="went away"):
        await pull(engine, bad.image)
    assert tries == 3


async def test_a_stale_image_runs_only_where_its_function_says_so(engine: Engine, bad: Registry) -> None:
    """A registry that fails: `always` does not run what is here, `newer` does, and `missing` does not even ask."""
    here = await pull(engine, bad.image)
    asked = bad.asked
    assert await pull(engine, bad.image) == here
    assert bad.asked == asked
    bad.refuses = 500
    with pytest.raises(ImageUnavailable, match="500"):
        await pull(engine, bad.image, policy="always")
    assert await pull(engine, bad.image, policy="newer") == here
    assert await pull(engine, f"{bad.address}/small@{bad.digest}", policy="always") == here
    bad.refuses = 0
    asked = bad.asked
    assert await pull(engine, bad.image, policy="always") == here
    assert bad.asked > asked


async def test_a_tag_that_moved(engine: Engine, bad: Registry) -> None:
    """What the tag names now is fetched by `always` and `newer`; `missing` goes on with what is here."""
    old = await pull(engine, bad.image)
    async with Registry((await engine.connect()).arch) as other:
        bad.become(other)
        assert await pull(engine, bad.image) == old
        new = await pull(engine, bad.image, policy="newer")
        assert new != old
        assert await pull(engine, bad.image) == new
    await engine.remove_image(old)


@pytest.mark.parametrize("login", ["", f"me:{PASSWORD}"])
async def test_an_image_that_does_not_fit_is_not_fetched(
    engine: Engine, bad: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, login: str
) -> None:
    """The manifest says how large it is: no layer is asked for where the disk has no room, and it is once there is."""
    bad.login = login
    file = logins(tmp_path, bad.address)
    free = 5 * 1024 * 1024

    async def little(_: Engine) -> int:
        return free

    monkeypatch.setattr(images, "free_of", little)
    bad.open.clear()  # a layer that is asked for never comes
    with pytest.raises(NoDisk, match=r"takes 6 MiB, 5 MiB are free"):
        await pull(engine, bad.image, file=file)
    bad.open.set()
    free *= 2
    assert await pull(engine, bad.image, file=file)


async def test_layers_that_are_here_need_no_room(
    engine: Engine, bad: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an image that begins as one that is here does, only the rest counts."""
    await pull(engine, bad.image)
    free = 5 * 1024 * 1024

    async def little(_: Engine) -> int:
        return free

    monkeypatch.setattr(images, "free_of", little)
    async with Registry((await engine.connect()).arch, on=bad) as larger:
        with pytest.raises(NoDisk, match=r"takes 6 MiB, 5 MiB are free"):
            await pull(engine, larger.image)
        free = 7 * 1024 * 1024
        assert await pull(engine, larger.image)
        await engine.remove_image(larger.image)


async def test_a_size_that_nobody_knows(engine: Engine, bad: Registry) -> None:
    """Where the registry does not say it to us, the engine pulls all the same, and says what is wrong itself."""
    assert await layers_of(bad.image, "riscv64", {}) == await layers_of(bad.image, "x86_64", {})
    assert await layers_of("127.0.0.1:1/nobody/here:v1", "x86_64", {}) is None
    bad.refuses = 500
    assert await layers_of(bad.image, "x86_64", {}) is None


async def test_a_size_is_asked_for_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node behind a proxy asks a registry outside by it, with its password; a refusal there holds nothing up."""
    heard: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.extend((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n"))
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        assert await layers_of("registry.test/mine/small:v1", "x86_64", {}) is None
    assert heard[0] == b"CONNECT registry.test:443 HTTP/1.1"
    assert b"Proxy-Authorization: Basic " + base64.b64encode(b"me:secret") in heard
