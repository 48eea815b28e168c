"""The life of an installed node: killed, stalled, rebooted, reloaded, upgraded, stopped under load, removed.

One machine for all of it, without a network. The tests go one after the other, and each leaves the node well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.install import node
from tests.install.machine import Failed, Machine

pytestmark = [pytest.mark.engine, pytest.mark.long, pytest.mark.install, pytest.mark.timeout(600)]

Measured = Callable[[str, object], None]

CARRIED = "/srv/what was carried here"
UPGRADE = "/bundle/install.sh --from /bundle/later"

DROP_IN = "/run/systemd/system/fernd-agent.service.d"


def change_unit(machine: Machine, *settings: str) -> None:
    """Have other settings of the agent's unit, and none but its own without any; restarts the agent."""
    lines = "".join(f"{setting}\\n" for setting in ("[Service]", *settings))
    make = f"mkdir -p {DROP_IN}; printf '{lines}' >{DROP_IN}/test.conf" if settings else f"rm -r {DROP_IN}"
    machine.run(f"{make}; systemctl daemon-reload; systemctl restart fernd-agent")


@pytest.fixture(scope="module")
def before() -> dict[str, set[str]]:
    """The machine's files before anything was installed."""
    return {}


@pytest.fixture(scope="module")
def installed(
    prepared_image: str, bundle: Path, function_image: str, before: dict[str, set[str]], measured: Measured
) -> Iterator[Machine]:
    """A machine that is dispatcher and node, made so without a network."""
    with Machine(prepared_image, "none", {bundle: "/bundle:ro"}) as machine:
        # A place that wants quoting, and a root that shares nothing: what is installed is read by others all the same.
        machine.run(f"mkdir '{CARRIED}'; cp -r /bundle/install.sh /bundle/wheels '{CARRIED}'")
        before["files"] = machine.files()
        begun = time.monotonic()
        machine.run(f"umask 077; '{CARRIED}/install.sh' --serve")
        measured("install.sh --serve, no network, engine present", time.monotonic() - begun)
        token = node.join_token(machine)
        begun = time.monotonic()
        machine.run(f"umask 077; '{CARRIED}/install.sh' --dispatcher http://127.0.0.1:7070 --token {token}")
        measured("install.sh --dispatcher URL --token T, program present", time.monotonic() - begun)
        node.add_function(machine)
        yield machine


def test_it_takes_work(installed: Machine) -> None:
    """READY came when the node had joined and its engine answered; a task runs, and systemd shows how it is."""
    assert node.invoke(installed, "hello") == "hello"
    status = "ready: 0 tasks run, connected to http://127.0.0.1:7070"
    installed.until(f"[[ $(systemctl show --property StatusText --value fernd-agent) == '{status}' ]]")
    installed.until("systemctl show --property StatusText --value fernd-dispatcher | grep '1 nodes connected'")


def test_a_join_that_fails_leaves_a_node_what_it_is(installed: Machine) -> None:
    """The installer run again with a token that is not known says so, and the agent goes on."""
    with pytest.raises(Failed, match="the join token is not known or has expired"):
        installed.run(f"'{CARRIED}/install.sh' --dispatcher http://127.0.0.1:7070 --token nonsense")
    installed.until("systemctl is-active fernd-agent")
    assert node.invoke(installed, "still") == "still"


def test_neither_is_root(installed: Machine, measured: Measured) -> None:
    """Both run as fernd; the agent holds four capabilities and reaches functions in their namespaces all the same."""
    assert installed.run("ps -o user= -C fernd").split() == ["fernd", "fernd"]
    assert "reach=namespace" in installed.run("journalctl --unit fernd-agent --output cat")
    for unit, limit in (("fernd-agent", 4.0), ("fernd-dispatcher", 2.5)):
        line = installed.run(f"systemd-analyze security --no-pager {unit} | tail -n 1")
        score = float(line.partition(f"{unit}.service: ")[2].split()[0])
        assert score < limit
        measured(f"systemd-analyze security {unit}", f"{score:g}")


def test_the_journal_has_fields(installed: Machine) -> None:
    """The lines of one task are found by its id: here what its machine's owner did to it."""
    task = node.begin(installed, "sleep 30")
    said = installed.run(f"fernd agent abort {task} --data-dir /var/lib/fernd")
    assert said == f"task {task}, attempt 1: stopped and given back\n"
    installed.run(node.CLIENT + f"fernd task cancel {task}")
    installed.until(f"journalctl --output cat FERND_TASK={task} | grep .")
    entry = installed.run(f"journalctl --output json FERND_TASK={task} --lines 1")
    assert '"PRIORITY"' in entry
    assert '"FERND_NODE"' in entry


def test_kill_minus_9(installed: Machine, measured: Measured) -> None:
    """An agent that is killed under a task comes back by itself, and the task ends with an answer."""
    task, pid = node.begin(installed, "sleep 8"), node.agent_pid(installed)
    begun = time.monotonic()
    installed.run(f"kill -9 {pid}")
    installed.until("systemctl is-active fernd-agent")
    assert node.agent_pid(installed) != pid
    measured("kill -9 of the agent to READY", time.monotonic() - begun)
    assert node.wait_finished(installed, task)["status"] == 200
    assert node.invoke(installed, "after") == "after"


def test_a_process_that_stands_still_is_restarted(installed: Machine, measured: Measured) -> None:
    """SIGSTOP: the watchdog is not fed, and systemd starts the agent again."""
    change_unit(installed, "WatchdogSec=4", "TimeoutAbortSec=2")
    pid = node.agent_pid(installed)
    begun = time.monotonic()
    installed.run(f"kill -STOP {pid}")
    installed.until("journalctl --unit fernd-agent --output cat | grep 'Watchdog timeout'")
    measured("SIGSTOP of the agent to the watchdog's word (WatchdogSec=4)", time.monotonic() - begun)
    installed.until(f"systemctl is-active fernd-agent && ! kill -0 {pid}")
    change_unit(installed)
    assert node.invoke(installed, "after") == "after"


def test_reboot(installed: Machine, measured: Measured) -> None:
    """Dispatcher and agent are there again after a reboot, with what they knew."""
    begun = time.monotonic()
    installed.reboot()
    installed.until("systemctl is-active fernd-agent && systemctl is-active fernd-dispatcher")
    measured("reboot to READY", time.monotonic() - begun)
    assert node.invoke(installed, "after") == "after"


def test_secrets_as_credentials(installed: Machine) -> None:
    """The node's credential may come by LoadCredential=, and its file be gone."""
    installed.run("mv /var/lib/fernd/credential /etc/fernd/secrets/node; chown root: /etc/fernd/secrets/node")
    change_unit(installed, "LoadCredential=node.credential:/etc/fernd/secrets/node")
    assert node.invoke(installed, "after") == "after"
    installed.run("mv /etc/fernd/secrets/node /var/lib/fernd/credential; chown fernd: /var/lib/fernd/credential")
    change_unit(installed)


def test_reload_and_stop_under_load(installed: Machine, measured: Measured) -> None:
    """SIGHUP shortens the grace period of a running agent; its stop then gives the task back, to be run again."""
    task, pid = node.begin(installed, "sleep 40"), node.agent_pid(installed)
    installed.run("printf '[stop]\\ngrace_period = 2\\n' >/etc/fernd/stop.toml; systemctl reload fernd-agent")
    assert node.agent_pid(installed) == pid
    assert "stop.grace_period" in installed.run("journalctl --unit fernd-agent --grep 'read again' --output cat")
    begun = time.monotonic()
    installed.run("systemctl stop fernd-agent")
    measured("stop under load, grace period of 2 s", time.monotonic() - begun)
    assert time.monotonic() - begun < 20
    assert node.containers(installed) == []
    assert node.shown(installed, task)["state"] == "queued"
    installed.run("rm /etc/fernd/stop.toml; systemctl start fernd-agent")
    found = node.wait_finished(installed, task)
    assert (found["status"], found["attempt"]) == (200, 2)


def test_a_long_drain_is_waited_for(installed: Machine) -> None:
    """What runs may end by its own timeout, beyond the unit's own stop time: the agent asks systemd for the time."""
    change_unit(installed, "TimeoutStopSec=5")
    task = node.begin(installed, "sleep 15")
    installed.run("systemctl stop fernd-agent")
    found = node.shown(installed, task)
    assert (found["state"], found["status"], found["attempt"]) == ("finished", 200, 1)
    change_unit(installed)


def test_a_stop_is_hurried_by_a_second_signal(installed: Machine, measured: Measured) -> None:
    """Whoever cannot wait for a task of 40 s sends it back with a signal, and the stop that waits is over."""
    task = node.begin(installed, "sleep 40")
    begun = time.monotonic()
    installed.run("systemctl stop --no-block fernd-agent")
    installed.until("systemctl show --property StatusText --value fernd-agent | grep 'draining: 1 task runs'")
    installed.run("systemctl kill --kill-whom=main fernd-agent")
    installed.until("[[ $(systemctl is-active fernd-agent) == inactive ]]")
    measured("stop under load, hurried by a second signal", time.monotonic() - begun)
    assert time.monotonic() - begun < 30
    assert node.shown(installed, task)["state"] == "queued"
    installed.run("systemctl start fernd-agent")
    assert node.wait_finished(installed, task)["attempt"] == 2


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_an_upgrade_that_is_broken_off(installed: Machine, signal: str) -> None:
    """While it waits for a task: the version before runs again; killed outright, the next installer starts it."""
    task = node.begin(installed, "sleep 200")
    installed.run(f"systemd-run --quiet --unit upgrade --property KillMode=process {UPGRADE}")
    installed.until("systemctl show --property StatusText --value fernd-agent | grep 'draining: 1 task runs'", 120)
    with pytest.raises(Failed, match="another installer is at work"):
        installed.run(UPGRADE)
    installed.run(f"systemctl kill --kill-whom=main --signal {signal} upgrade")
    installed.until("! systemctl is-active upgrade")
    installed.run("systemctl reset-failed upgrade")
    assert node.shown(installed, task)["state"] == "running"
    installed.run(node.CLIENT + f"fernd task cancel {task}")
    if signal == "KILL":
        installed.until("[[ $(systemctl is-active fernd-agent) == inactive ]]")
        installed.run(f"'{CARRIED}/install.sh'")
    installed.until("systemctl is-active fernd-agent")
    assert installed.run("fernd --version").strip() == "fernd 0.1.0"
    assert not installed.succeeds("ls /run/fernd-install.stopped")
    assert node.invoke(installed, "after") == "after"


def test_upgrade_under_load(installed: Machine, measured: Measured) -> None:
    """The installer run again: the running task finishes, and the new version runs."""
    task = node.begin(installed, "sleep 10")
    begun = time.monotonic()
    installed.run(UPGRADE)
    measured("upgrade under a task of 10 s", time.monotonic() - begun)
    found = node.shown(installed, task)
    assert (found["state"], found["status"], found["attempt"]) == ("finished", 200, 1)
    assert installed.run("fernd --version").strip() == "fernd 0.1.1"
    assert installed.run("ls /opt/fernd/versions | wc -l").strip() == "1"
    assert node.invoke(installed, "after") == "after"


def test_a_version_that_does_not_start_is_taken_back(installed: Machine, measured: Measured) -> None:
    """The upgrade fails and says so; the version before runs again."""
    begun = time.monotonic()
    with pytest.raises(Failed, match="the upgrade failed, and the version before runs again"):
        installed.run("FERND_INSTALL_READY_SECONDS=20 /bundle/install.sh --from /bundle/broken")
    measured("upgrade that cannot start, to the version before (waits 20 s)", time.monotonic() - begun)
    assert installed.run("fernd --version").strip() == "fernd 0.1.1"
    assert installed.run("ls /opt/fernd/versions | wc -l").strip() == "1"
    assert node.invoke(installed, "after") == "after"


def test_removal_leaves_nothing(installed: Machine, before: dict[str, set[str]], measured: Measured) -> None:
    """First all but settings and data, also what a killed agent left on the engine; then those too.

    No file, unit, user, container or network is left.
    """
    change_unit(installed, "Restart=no")
    node.begin(installed, "sleep 40")
    installed.run(f"kill -KILL {node.agent_pid(installed)}; rm -r {DROP_IN}")
    installed.until("systemctl is-failed fernd-agent")
    assert node.containers(installed) != []
    begun = time.monotonic()
    installed.run("/bundle/install.sh --uninstall")
    measured("install.sh --uninstall", time.monotonic() - begun)
    left = installed.files() - before["files"]
    assert {path for path in left if not path.startswith(("/var/lib/fernd", "/etc/fernd"))} == set()
    assert node.containers(installed) == []

    installed.run("/bundle/install.sh --uninstall --purge")
    assert installed.files() - before["files"] == set()
    assert not installed.succeeds("getent passwd fernd || getent group fernd")
    assert installed.run("docker network ls --quiet --filter label=fernd.node") == ""
    assert installed.run("systemctl list-units --all --plain --no-legend 'fernd*'") == ""
    measured("files, units, users, containers, networks left after --uninstall --purge", "none")
