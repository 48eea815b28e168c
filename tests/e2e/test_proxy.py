"""A node behind a company's proxy, with a dispatcher whose certificate comes from a company's own authority."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from agent import identity
from tests import images
from tests.chaos.programs import Agent, Dispatcher
from tests.e2e.test_service import join_token

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]

NAME = "dispatcher.test"
"""A name that no name server knows: only the proxy can tell where it is."""

SECONDS = 60.0

CAT = "import shutil, sys\nshutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)\n"


class Proxy:
    """An HTTP proxy that knows CONNECT alone, for whoever shows a password, and leads to one port.

    Attributes:
        asked: What was asked for, in order: host and port.
        heard: All requests, with their headers.
    """

    def __init__(self, target: int) -> None:
        self.asked: list[str] = []
        self.heard = b""
        self.url = ""
        self._target = target
        self._expected = b"Basic " + base64.b64encode(b"me:secret")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        whole = await reader.readuntil(b"\r\n\r\n")
        self.heard += whole
        request, *headers = whole.split(b"\r\n")
        method, host, _ = request.split(b" ")
        if b"Proxy-Authorization: " + self._expected not in headers:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        elif method != b"CONNECT":
            writer.write(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
        else:
            self.asked.append(host.decode())
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await lead(reader, writer, self._target)
        writer.close()


async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """Join a connection to a port of this machine, until both sides have closed it."""
    far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer))


async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await source.read(65536):
            target.write(piece)
            await target.drain()
    target.close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority (``ca.pem``), and a certificate of the dispatcher's name by it (``leaf.pem``, ``leaf.key``)."""
    directory = tmp_path_factory.mktemp("certificates")
    (directory / "names").write_text(f"subjectAltName=DNS:{NAME}")
    key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    for command in (
        f"req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=authority",
        f"req {key} -keyout leaf.key -out leaf.csr -subj /CN={NAME}",
        "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out leaf.pem",
    ):
        subprocess.run(["openssl", *command.split()], cwd=directory, check=True, capture_output=True)
    return directory


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    with images.built("proxy-cat", "cat.py", CAT) as built:
        yield built


@pytest.fixture
async def dispatcher(tmp_path: Path) -> AsyncIterator[Dispatcher]:
    program = Dispatcher(tmp_path, {})
    await program.start()
    yield program
    await program.close()


@pytest.fixture
async def proxy(dispatcher: Dispatcher, certificates: Path) -> AsyncIterator[Proxy]:
    """A proxy in front of a server that speaks TLS in front of the dispatcher."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "leaf.pem", certificates / "leaf.key")
    front = await asyncio.start_server(
        lambda reader, writer: lead(reader, writer, dispatcher.port), "127.0.0.1", 0, ssl=context
    )
    made = Proxy(front.sockets[0].getsockname()[1])
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://me:secret@127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with front, server:
        yield made


async def test_all_that_a_node_says_goes_through_the_proxy(
    dispatcher: Dispatcher, proxy: Proxy, certificates: Path, image: str, tmp_path: Path
) -> None:
    """Join, session, inputs and results beside it, the doctor, and a client's calls; the authority is trusted."""
    url = f"https://{NAME}"
    way = {"HTTPS_PROXY": proxy.url, "SSL_CERT_FILE": str(certificates / "ca.pem")}
    agent = Agent("agent", tmp_path, way)
    try:
        await agent.join(url, await join_token(dispatcher))
        await agent.start_ready()
        client = way | {"FERND_URL": url, "FERND_TOKEN": dispatcher.token}
        await fernd(client, "function", "create", "cat", "--image", image, "--mode", "job")
        large = "x" * 600_000
        (tmp_path / "large").write_text(large)
        assert await fernd(client, "invoke", "cat", "-b", f"@{tmp_path / 'large'}") == large

        found = json.loads(await fernd(way, "agent", "--data-dir", str(agent.directory), "doctor", "--json"))
        checks = {check["check"]: check for check in found["checks"]}
        seen = {name: checks[name]["state"] for name in ("dns", "proxy", "ca", "dispatcher", "clock")}
        assert set(seen.values()) == {"ok"}, checks
        assert checks["proxy"]["seen"] == f"{url} by {proxy.url.rpartition('@')[2]}"
        assert await agent.stop() == 0
    finally:
        await agent.close()
    assert set(proxy.asked) == {f"{NAME}:443"}
    for secret in (dispatcher.token, identity.load_credential(agent.directory)):
        assert secret.encode() not in proxy.heard


async def test_what_is_wrong_on_the_way_is_said(
    proxy: Proxy, certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that is away or wants another password, an authority that is not trusted or whose file is not there."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    trusted, wrong = str(certificates / "ca.pem"), proxy.url.replace("secret", "guessed")
    for environ, check, words in (
        (
            {"HTTPS_PROXY": wrong, "SSL_CERT_FILE": trusted},
            "dispatcher",
            "proxy answered 407",
        ),
        ({"HTTPS_PROXY": "http://me:secret@127.0.0.1:1"}, "dispatcher", "the proxy cannot be reached: "),
        ({"HTTPS_PROXY": proxy.url}, "dispatcher", "not trusted"),
        ({"HTTPS_PROXY": proxy.url, "SSL_CERT_FILE": "/nowhere/ca.pem"}, "ca", "/nowhere/ca.pem is not there"),
    ):
        settings = environ | {"FERND_DISPATCHER_URLS": f"https://{NAME}"}
        said = await fernd(settings, "agent", "--data-dir", str(tmp_path / "data"), "doctor", "--json", code=1)
        found = {each["check"]: each for each in json.loads(said)["checks"]}[check]
        assert (found["state"], words in found["seen"]) == ("failed", True), found
        assert found["cure"]
        assert "secret" not in said
        assert "guessed" not in said


async def fernd(environ: dict[str, str], *arguments: str, code: int = 0) -> str:
    """Run a command and give what it prints."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FERND_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent.cli", *arguments),
        env=inherited | environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(SECONDS):
        output, errors = await process.communicate()
    assert process.returncode == code, errors.decode()
    return output.decode()
