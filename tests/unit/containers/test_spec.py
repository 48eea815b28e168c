"""The walls around a function, as the engine is told of them."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.containers.spec import ContainerSpec, EngineTraits, arguments, job_environment, may_be_privileged
from agent.protocol import Revision

TRAITS = EngineTraits(cgroup=2, cpus=4, init=True)
FUNCTION = "0" * 24

specs = st.builds(
    ContainerSpec,
    image=st.text(max_size=5),
    mode=st.sampled_from(["http", "job"]),
    node=st.text(max_size=5),
    function=st.text(max_size=5),
    revision=st.text(max_size=5),
    user=st.sampled_from(["", "1234", "app:app"]),
    volumes=st.lists(st.sampled_from(["/data", "/var/lib/x"]), unique=True),
    env=st.dictionaries(st.sampled_from(["A", "PORT", "TASK_ID"]), st.text(max_size=3)),
    network=st.sampled_from(["none", "net"]),
    publish=st.booleans(),
    cpus=st.floats(0.1, 64),
    memory=st.integers(6, 4096),
)
traits = st.builds(EngineTraits, cgroup=st.sampled_from([1, 2]), cpus=st.integers(1, 8), init=st.booleans())


def spec(**changes: object) -> ContainerSpec:
    base = ContainerSpec(image="i", mode="http", node="n", function="f", revision="f.1")
    return msgspec.structs.replace(base, **changes)


@given(specs, traits)
def test_no_specification_has_a_hole(spec: ContainerSpec, traits: EngineTraits) -> None:
    """Whatever a function asks for, without three yeses its container has all walls."""
    body = arguments(spec, traits)
    host = body["HostConfig"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["ReadonlyRootfs"] is True
    assert "Privileged" not in host
    assert not {"Binds", "Mounts", "CapAdd", "Devices", "PidMode", "IpcMode", "UsernsMode", "UTSMode"} & set(host)
    assert host["Memory"] == host["MemorySwap"] == spec.memory * 1024 * 1024
    assert 0 < host["NanoCpus"] <= traits.cpus * 1e9
    assert 0 < host["PidsLimit"] <= 4096
    assert set(host["Tmpfs"]) == {"/tmp", *spec.volumes}
    for options in host["Tmpfs"].values():
        assert {"nosuid", "nodev"} <= set(options.split(","))
        assert 0 < int(options.rpartition("size=")[2].rstrip("m")) * 2 <= max(2, spec.memory)
    assert ("MemorySwappiness" in host) == (traits.cgroup == 1)
    assert body["User"] == (spec.user or "65534:65534")
    assert host["NetworkMode"] == spec.network
    assert body["Labels"] == {
        "fernd.node": spec.node,
        "fernd.function": spec.function,
        "fernd.revision": spec.revision,
    }
    for bindings in host.get("PortBindings", {}).values():
        assert [each["HostIp"] for each in bindings] == ["127.0.0.1"]


def test_modes() -> None:
    """A server's output is only read as it comes; a job has input, and its output survives the agent, within bounds."""
    server, job = arguments(spec(), TRAITS), arguments(spec(mode="job"), TRAITS)
    assert (server["OpenStdin"], server["HostConfig"]["LogConfig"]) == (False, {"Type": "none"})
    assert (job["OpenStdin"], job["StdinOnce"], job["HostConfig"]["LogConfig"]["Type"]) == (True, True, "local")
    assert "max-size" in job["HostConfig"]["LogConfig"]["Config"]


def test_the_contracts_environment_wins() -> None:
    """A function cannot set what the function contract sets."""
    env = arguments(spec(env={"TASK_ID": "mine", "A": "=b"}, contract_env=job_environment("q=1", "t")), TRAITS)["Env"]
    assert sorted(env) == ["A==b", "QUERY_STRING=q=1", "TASK_ID=t"]


def test_what_the_operator_and_the_engine_give() -> None:
    """A runtime is passed on, a published port is, and an init process only where there is one."""
    told = arguments(spec(publish=True, runtime="runsc"), EngineTraits(cgroup=2, cpus=1, init=False))["HostConfig"]
    assert (told["Runtime"], told["Init"]) == ("runsc", False)
    assert told["PortBindings"] == {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}
    assert "Runtime" not in arguments(spec(), TRAITS)["HostConfig"]


def test_privileged() -> None:
    """A privileged container has no such walls, but still a read-only root and its limits."""
    body = arguments(spec(privileged=True), TRAITS)
    host = body["HostConfig"]
    assert host["Privileged"] is True
    assert not {"CapDrop", "SecurityOpt"} & set(host)
    assert (host["ReadonlyRootfs"], host["Memory"]) == (True, 256 * 1024 * 1024)


@pytest.mark.parametrize(
    ("asks", "allowed", "can", "expected"),
    [
        (True, ["trusted:1"], True, True),
        (True, ["trusted:*"], True, True),
        (True, ["*"], True, True),
        (False, ["trusted:1"], True, False),
        (True, ["trusted:2"], True, False),
        (True, ["trusted"], True, False),
        (True, ["trusted?1"], True, False),
        (True, [], True, False),
        (True, ["trusted:1"], False, False),
    ],
)
def test_three_yeses(asks: bool, allowed: list[str], can: bool, expected: bool) -> None:
    """Privileged needs the function, the operator and the engine."""
    revision = Revision(function=FUNCTION, number=1, image="trusted:1", privileged=asks)
    assert may_be_privileged(revision, allowed, can) is expected
