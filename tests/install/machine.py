"""A Debian machine of the test's own: systemd is its first process, it has an engine inside, and knows no other."""

from __future__ import annotations

import contextlib
import subprocess
import time
from pathlib import Path
from typing import Self

BARE = "systemd,systemd-sysv,dbus,ca-certificates,iproute2,procps"
"""What makes a Debian that boots."""

PREPARED = f"{BARE},python3,docker.io,tini,iptables"
"""The same with what the installer would fetch: for a machine without a network."""

BOOT_SECONDS = 60.0
COMMAND_SECONDS = 180.0


class Failed(AssertionError):
    """A command of a machine failed; the text is all that it said."""


def docker(*arguments: str, seconds: float = COMMAND_SECONDS, stdin: bytes | None = None) -> str:
    """Run a docker command against the host's engine."""
    done = subprocess.run(["docker", *arguments], capture_output=True, check=False, timeout=seconds, input=stdin)
    output = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        raise Failed(f"docker {' '.join(arguments)}: {done.returncode}\n{output}{done.stderr.decode(errors='replace')}")
    return output


def root_image(name: str, packages: str, suite: str = "bookworm") -> str:
    """See to it that the image of a machine is there: a release of Debian from its packages."""
    reference = f"fernd-test-machine:{name}"
    if docker("images", "--quiet", reference).strip():
        return reference
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={packages}", suite, "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as making:
        subprocess.run(["docker", "import", "-", reference], stdin=making.stdout, check=True, stdout=subprocess.DEVNULL)
    assert making.returncode == 0
    return reference


class Machine:
    """One machine, from its first boot to its removal.

    Args:
        image: Made by `root_image`.
        network: Of the host's engine: ``bridge`` or ``none``.
        mounts: Directories of the host, by their places in the machine, as ``docker run --volume`` wants them.
    """

    def __init__(self, image: str, network: str, mounts: dict[Path, str]) -> None:
        command = ["run", "--detach", "--network", network, "--hostname", "machine"]
        command += ["--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE"]
        command += ["--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"]
        command += ["--cgroupns", "host", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup"]
        # The engine inside cannot lay one overlay on another.
        command += ["--tmpfs", "/run", "--tmpfs", "/tmp:exec", "--volume", "/var/lib/docker"]
        command += [part for source, target in mounts.items() for part in ("--volume", f"{source}:{target}")]
        command += ["--stop-signal", "SIGRTMIN+3", "--env", "container=docker", image]
        # As on a real machine, or mounts that systemd makes for a service's credentials would not be seen by it.
        self.id = docker(*command, "sh", "-c", "mount --make-rshared / && exec /sbin/init").strip()

    def __enter__(self) -> Self:
        self.wait_booted()
        return self

    def __exit__(self, *_: object) -> None:
        # The end of the machine, in good order, so that the engine inside takes its mounts and cgroups down.
        with contextlib.suppress(Failed):
            docker("stop", "--time", "60", self.id)
        docker("rm", "--force", "--volumes", self.id)

    def run(self, script: str, seconds: float = COMMAND_SECONDS) -> str:
        """Run a shell script as root; give what it printed on stdout."""
        return docker("exec", "--interactive", self.id, "bash", "-e", "-o", "pipefail", "-c", script, seconds=seconds)

    def succeeds(self, script: str) -> bool:
        """Say whether a shell script ends well."""
        with contextlib.suppress(Failed):
            self.run(script)
            return True
        return False

    def until(self, script: str, seconds: float = 60.0) -> None:
        """Wait until a shell script ends well."""
        deadline = time.monotonic() + seconds
        while not self.succeeds(script):
            if time.monotonic() > deadline:
                raise Failed(f"not within {seconds:g} s: {script}\n{self.journal()}")
            time.sleep(0.2)

    def load_image(self, name: str) -> None:
        """Give an image of the host's engine to the one inside."""
        with subprocess.Popen(["docker", "save", name], stdout=subprocess.PIPE) as saving:
            subprocess.run(
                ["docker", "exec", "--interactive", self.id, "docker", "load"],
                stdin=saving.stdout,
                check=True,
                stdout=subprocess.DEVNULL,
            )

    def reboot(self) -> None:
        """Shut down in good order and boot again."""
        docker("restart", "--time", "90", self.id)
        self.wait_booted()

    def wait_booted(self) -> None:
        """Wait until systemd has started what starts at boot."""
        deadline = time.monotonic() + BOOT_SECONDS
        while not self.succeeds("[[ $(systemctl is-system-running) == @(running|degraded) ]]"):
            assert time.monotonic() < deadline, "the machine does not boot"
            time.sleep(0.2)

    def journal(self) -> str:
        """The last lines of both services."""
        with contextlib.suppress(Failed):
            return self.run("journalctl --unit 'fernd-*' --lines 40 --no-pager")
        return ""

    def files(self) -> set[str]:
        """Every file that is there, but for what the system itself writes now and then."""
        passing = ["/proc", "/sys", "/run", "/tmp", "/dev", "/var/log", "/var/cache"]
        passing += ["/var/lib/docker", "/var/lib/containerd", "/var/lib/systemd"]
        pruned = " -o ".join(f"-path {path}" for path in passing)
        found = self.run(f"find / \\( {pruned} \\) -prune -o -print").split("\n")
        return {path for path in found if not path.startswith("/var/tmp/systemd-private-")}
