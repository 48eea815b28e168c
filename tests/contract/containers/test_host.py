"""A container host on the real engine: walls, ways to containers, other hosts, the internet."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import docker.errors
import docker.types
import pytest
from click.testing import CliRunner, Result

from agent.cli.main import fernd
from agent.containers.engine import Engine, EngineUnavailable
from agent.containers.firewall import FirewallError
from agent.containers.host import ContainerHost
from agent.containers.networks import Networks
from agent.containers.removal import remove_all
from agent.containers.spec import ContainerSpec, EngineTraits, arguments
from agent.identity import Identity, only_one, save
from agent.protocol import Revision
from tests.contract.containers.calls import ENTRYPOINT_IMAGE, IMAGE, Caller, revision, running_host

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("images")]


def answer(ran: Any) -> Any:
    assert ran.outcome.body is not None, ran.outcome
    return json.loads(ran.outcome.body)


def mine(client: docker.APIClient, node_id: str) -> list[Any]:
    """Everything that the engine has of a node."""
    label = {"label": [f"fernd.node={node_id}"]}
    return [*client.containers(all=True, filters=label), *client.networks(filters=label)]


def rules() -> str:
    return subprocess.run(["iptables", "-S"], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def node_id() -> str:
    return str(uuid.uuid4())


@pytest.mark.parametrize("way", ["namespace", "bridge", "published"])
async def test_every_way_reaches_a_function(way: str, node_id: str, tmp_path: Path, client: docker.APIClient) -> None:
    """Each way reaches a function, cold and warm, also one that listens late, and leaves nothing behind."""
    async with running_host(node_id=node_id, reach=way) as host:
        bridges = {host._networks.bridge(kind) for kind in ("closed", "published", "internet")}
        call = Caller(host, tmp_path)
        tested = revision(env={"START": "late:0.3"})
        first, second = await call(tested, "a=b"), await call(tested, "a=c")
        assert (first.outcome.cold, second.outcome.cold) == (True, False)
        assert answer(first)["target"] == "/?a=b"
        assert answer(second)["target"] == "/?a=c"
        assert (await call(revision(), "do=close")).outcome.ending == "bad_response"
        assert (await call(revision(env={"START": "never"}))).outcome.ending == "never_ready"
        looked = answer(await call(tested, "do=look"))
        assert looked["interfaces"] == (["lo"] if way == "namespace" else ["lo", "eth0"])
        job = (await call(revision(mode="job"), "do=count", b"in")).outcome
        assert job.body == b"::progress::99\n2\n"
    assert mine(client, node_id) == []
    assert not [bridge for bridge in bridges if bridge in rules()]


async def test_the_walls_from_within(tmp_path: Path) -> None:
    """A function has no capability, no new privileges, a read-only root, and a writable /tmp in memory."""
    async with running_host() as host:
        call = Caller(host, tmp_path)
        seen = answer(await call(revision(env={"MINE": "1", "PORT": "9"}), "do=look"))
        assert (seen["uid"], seen["gid"], seen["capabilities"]) == (65534, 65534, 0)
        assert (seen["no_new_privileges"], seen["seccomp"]) == ("1", "2")
        assert (seen["/x"], seen["/etc/x"], seen["/tmp/x"]) == ("Read-only file system",) * 2 + ("written",)
        assert (seen["env"]["MINE"], seen["env"]["PORT"]) == ("1", "8080")
        assert seen["interfaces"] == ["lo"]
        seen = answer(await call(revision(image=ENTRYPOINT_IMAGE), "do=look"))
        assert (seen["uid"], seen["/data/x"]) == (1234, "written")


async def test_volumes_of_images_stay_in_memory(tmp_path: Path, client: docker.APIClient) -> None:
    """An image that declares a volume leaves none on the disk: its container has memory there, and no volume at all."""
    async with running_host() as host:
        call, tested = Caller(host, tmp_path), revision(image=ENTRYPOINT_IMAGE)
        await call(tested, "do=look")
        [name] = await call.containers_of(tested)
        mounts = client.inspect_container(name)["Mounts"]
        assert [mount for mount in mounts if mount["Type"] != "tmpfs"] == []


async def test_two_hosts_share_an_engine(tmp_path: Path) -> None:
    """A host that starts or stops leaves the containers of another one alone."""
    async with running_host() as first:
        call = Caller(first, tmp_path)
        tested = revision()
        pid = answer(await call(tested))["pid"]
        async with running_host() as second:
            await Caller(second, tmp_path)(revision())
        again = await call(tested)
        assert (answer(again)["pid"], again.outcome.cold) == (pid, False)


async def test_what_a_crash_left_is_removed(node_id: str, client: docker.APIClient) -> None:
    """A host removes at its start what carries its node id, running or not, and nothing else."""
    traits = EngineTraits(cgroup=1, cpus=1, init=False)
    made = {}
    for owner in (node_id, other := str(uuid.uuid4())):
        spec = ContainerSpec(
            image=IMAGE, mode="http", node=owner, function="f", revision="f.1", contract_env={"PORT": "1"}
        )
        made[owner] = [
            client.create_container_from_config(arguments(spec, traits))["Id"]  # type: ignore[no-untyped-call]
            for _ in range(2)
        ]
        client.start(made[owner][0])
    try:
        async with running_host(node_id=node_id):
            assert mine(client, node_id) == []
            assert {each["Id"] for each in mine(client, other)} == set(made[other])
    finally:
        for container in made[other]:
            client.remove_container(container, force=True, v=True)


async def test_what_a_killed_agent_left_is_removed_without_it(
    node_id: str, tmp_path: Path, client: docker.APIClient
) -> None:
    """`fernd agent gc --all` leaves no container, network, volume or rule of a node, and touches no other's.

    Not beside its agent, which would go on using them.
    """
    save(tmp_path, Identity(node_id, ["http://127.0.0.1:1"]), "credential")
    engine, other = Engine(), str(uuid.uuid4())
    await engine.connect()
    networks, others = Networks(engine, node_id), Networks(engine, other)
    labels = {"fernd.node": node_id}
    try:
        await networks.make("internet")
        await networks.make("closed")
        await others.make("closed")
        client.remove_network(networks.name("closed"))  # and its rules are left
        client.create_volume(f"fernd-test-{node_id}", labels=labels)
        client.create_container(IMAGE, labels=labels, host_config={"NetworkMode": networks.name("internet")})
        bridges = [networks.bridge(kind) for kind in ("closed", "internet")]
        assert [bridge in rules() for bridge in bridges] == [True, True]

        with only_one(tmp_path):
            refused = await _gc(tmp_path)
        assert (refused.exit_code, refused.stderr) == (1, f"error: another agent runs with {tmp_path}\n")
        listed = json.loads((await _gc(tmp_path, "--dry-run", "--json")).output)
        assert len(mine(client, node_id)) == 2
        removed = json.loads((await _gc(tmp_path, "--json")).output)
        assert removed == listed
        assert [each["kind"] for each in removed] == ["container", "network", "volume"]
        assert mine(client, node_id) == []
        assert client.volumes(filters={"label": f"fernd.node={node_id}"})["Volumes"] == []
        assert [bridge in rules() for bridge in bridges] == [False, False]
        assert len(mine(client, other)) == 1
        assert others.bridge("closed") in rules()
    finally:
        await remove_all(node_id)
        await remove_all(other)
        await engine.close()


async def _gc(directory: Path, *arguments: str) -> Result:
    """Run the command as a user would, in another thread, since it has an event loop of its own."""
    command = ["agent", "gc", "--all", "--data-dir", str(directory), *arguments]
    return await asyncio.to_thread(CliRunner().invoke, fernd, command)


async def test_privileged_is_probed(node_id: str, client: docker.APIClient) -> None:
    """Whether a privileged container can run is what the engine does, and asking leaves nothing behind."""
    tag = f"fernd-probe:{hashlib.sha256(node_id.encode()).hexdigest()[:12]}"
    async with running_host(node_id=node_id, privileged_images=["trusted/*"]) as host:
        can = await host.can_run_privileged()
        assert mine(client, node_id) == []
    assert client.images(name=tag) == []
    assert can is _engine_runs_privileged(client)
    async with running_host() as host:
        assert await host.can_run_privileged() is False  # the operator allows no image


def _engine_runs_privileged(client: docker.APIClient) -> bool:
    try:
        return _run(client, ["/bin/busybox", "true"], NetworkMode="none", Privileged=True)[0] == 0
    except docker.errors.APIError:
        return False


async def test_what_a_host_refuses(tmp_path: Path) -> None:
    """Functions that ask for what the operator did not allow are given back, not run without it."""
    async with running_host(memory=128) as host:
        call = Caller(host, tmp_path)
        refused: list[tuple[dict[str, object], str]] = [
            ({"network": "internet"}, "no_internet"),
            ({"privileged": True}, "not_privileged"),
            ({"mem_size": 129}, "no_room"),
        ]
        for asked, reason in refused:
            back = await call.gives_back(revision(**asked))
            assert (back.reason, back.started) == (reason, False)


async def test_unknown_runtime() -> None:
    """A runtime that the engine does not have is found out at the start, and named with its setting."""
    settings: dict[str, Any] = {"runtime": "no-such", "runtimes": ["image rare/* = no-such"]}
    for key, setting in settings.items():
        with pytest.raises(EngineUnavailable, match=f"^containers.{key}: the engine has no OCI runtime 'no-such'"):
            async with running_host(**{key: setting}):
                pass


# network: internet --------------------------------------------------------------------------------


@pytest.fixture
def lan() -> Iterator[list[str]]:
    """Machines of a private network that this host is connected to, one of them at the metadata address.

    They are one network namespace with listeners on port 8099. Gives their addresses and the host's own there.
    The addresses are outside of what the engine takes for its networks. There is one such network on a machine:
    another run of the tests waits, and takes away what a killed one left.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root")
    name, outside, inside = "fernd-test-lan", "fernd-lan-out", "fernd-lan-in"
    addresses = ["10.213.7.2", "172.16.213.2", "192.168.255.2", "169.254.169.254"]
    commands = [
        f"ip netns add {name}",
        f"ip link add {outside} type veth peer name {inside}",
        f"ip link set {inside} netns {name}",
        f"ip addr add 10.213.7.1/24 dev {outside}",
        f"ip link set {outside} up",
        f"ip -n {name} link set {inside} up",
        *(f"ip -n {name} addr add {address}/32 dev {inside}" for address in addresses[1:]),
        f"ip -n {name} addr add {addresses[0]}/24 dev {inside}",
        f"ip -n {name} route add default via 10.213.7.1",
        *(f"ip route add {address}/32 dev {outside} via {addresses[0]}" for address in addresses[1:]),
        f"ip addr add fd13:213:7::1/64 dev {outside} nodad",
        f"ip -n {name} addr add fd13:213:7::2/64 dev {inside} nodad",
    ]
    script = (
        "import socket,time\n"
        "s=socket.create_server(('',8099),family=socket.AF_INET6,dualstack_ipv6=True)\n"
        "print(flush=True)\ntime.sleep(600)"
    )

    def take_away() -> None:
        subprocess.run(["ip", "link", "del", outside], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    listener = None
    with Path(tempfile.gettempdir(), f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        take_away()
        try:
            for command in commands:
                subprocess.run(command.split(), check=True, capture_output=True)
            listener = subprocess.Popen(["ip", "netns", "exec", name, "python3", "-c", script], stdout=subprocess.PIPE)
            assert listener.stdout is not None
            listener.stdout.readline()
            yield addresses
        finally:
            if listener is not None:
                listener.kill()
                listener.communicate()
            take_away()


@contextlib.contextmanager
def listening_here() -> Iterator[int]:
    """Listen on all of this host's addresses, of both families. The kernel takes the connections."""
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        yield listener.getsockname()[1]


def own_addresses(client: docker.APIClient, network: str) -> list[str]:
    gateways = [config["Gateway"] for config in client.inspect_network(network)["IPAM"]["Config"]]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("10.213.7.2", 9))
        return [*gateways, probe.getsockname()[0]]


@pytest.mark.parametrize("way", ["namespace", "published"])
async def test_no_private_address_from_the_internet_network(
    way: str, node_id: str, tmp_path: Path, client: docker.APIClient, lan: list[str]
) -> None:
    """A function on the internet network reaches no machine of the local network, no metadata service and not its host.

    Neither does it reach another function, nor anything by IPv6, of which it has no address. An ordinary container of
    the engine, or this host, reaches them all, so that it is the walls which hold.
    """
    async with contextlib.AsyncExitStack() as stack:
        port = stack.enter_context(listening_here())
        host = await stack.enter_async_context(running_host(node_id=node_id, allow_internet=True, reach=way))
        assert host.internet
        tested, call = revision(network="internet", timeout=20), Caller(host, tmp_path)
        other, network = revision(network="internet"), host._networks.name("internet")
        await call(other)
        [name] = await call.containers_of(other)
        [neighbour] = (await host.engine.inspect(name)).addresses.values()
        from_containers = [f"{address}:8099" for address in lan]
        from_containers += [f"{address}:{port}" for address in own_addresses(client, network)]
        from_here = [f"{neighbour}:8080", f"127.0.0.1:{port}", "[fd13:213:7::2]:8099", f"[fd13:213:7::1]:{port}"]
        targets = [*from_containers, *from_here]
        reached = {target: (await _said(call, tested, f"do=connect&value={target}"))[:7] for target in targets}
        assert reached == dict.fromkeys(targets, "refused")
        assert await _said(call, tested, "do=read&value=/proc/net/if_inet6") == ""
        assert _connects(client, from_containers) == dict.fromkeys(from_containers, True)
        for target in from_here:
            address, _, number = target.rpartition(":")
            await asyncio.to_thread(_connect, address.strip("[]"), int(number))
        assert host._networks.bridge("internet") in rules()
    assert host._networks.bridge("internet") not in rules()
    assert mine(client, node_id) == []


async def _said(call: Caller, tested: Revision, query: str) -> str:
    body = (await call(tested, query)).outcome.body
    assert body is not None
    return body.decode()


def _connect(host: str, port: int) -> None:
    socket.create_connection((host, port), 5).close()


def _connects(client: docker.APIClient, targets: list[str]) -> dict[str, bool]:
    """Try to connect from a container on an ordinary network of the engine.

    Its addresses are none that the engine would choose: among those are some of the tests' private network, which who
    is on such a network looks for there. Like that one it is the only one on the machine, under the same lock.
    """
    script = (
        "import socket,sys\n"
        "for each in sys.argv[1:]:\n"
        "  host, port = each.split(':')\n"
        "  try: socket.create_connection((host, int(port)), 2).close(); print(each, 1)\n"
        "  except OSError: print(each, 0)\n"
    )
    name = "fernd-test-ordinary"
    with contextlib.suppress(docker.errors.NotFound):
        client.remove_network(name)  # of a run that was killed
    subnet = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet="10.213.8.0/24")])
    client.create_network(name, driver="bridge", ipam=subnet)
    try:
        status, out = _run(client, ["/usr/bin/python3", "-c", script, *targets], NetworkMode=name)
    finally:
        client.remove_network(name)
    assert status == 0, out
    return {target: reached == "1" for target, reached in (line.split() for line in out.splitlines())}


def _run(client: docker.APIClient, command: list[str], **host_config: Any) -> tuple[int, str]:
    """Run a container without any of our walls, past our own code: its exit code and what it wrote."""
    config = {"Image": IMAGE, "Entrypoint": command, "HostConfig": host_config}
    container = client.create_container_from_config(config)["Id"]  # type: ignore[no-untyped-call]
    try:
        client.start(container)
        status = client.wait(container, timeout=30)["StatusCode"]
        return status, client.logs(container).decode()
    finally:
        client.remove_container(container, force=True, v=True)


async def test_no_internet_without_walls(
    node_id: str, client: docker.APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the packet filter cannot be used there is no internet for functions, and everything else works."""

    async def refuse(*_: str) -> None:
        raise FirewallError("iptables cannot be run")

    monkeypatch.setattr("agent.containers.firewall._iptables", refuse)
    async with running_host(node_id=node_id, allow_internet=True) as host:
        assert host.internet is False
        assert mine(client, node_id) == []


async def test_rules_are_put_once(node_id: str) -> None:
    """A host that starts again after a crash finds its network and rules there, and changes nothing."""
    first = running_host(node_id=node_id, allow_internet=True)
    await first.host.start()
    bridge = first.host._networks.bridge("internet")

    def ours() -> list[str]:
        return sorted(line for line in rules().splitlines() if bridge in line)

    before = ours()
    assert before
    async with running_host(node_id=node_id, allow_internet=True):
        assert ours() == before
    await first.host.stop()


async def test_stop_without_start() -> None:
    """A host that never found an engine can be stopped."""
    host = ContainerHost(running_host().host.config, "nobody", 100)
    assert (host.images(), host.warm()) == ([], [])
    await host.stop()
    await host.stop()
