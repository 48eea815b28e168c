"""What the doctor makes of a machine and of the line to its dispatchers."""

from __future__ import annotations

import time
from email.utils import formatdate
from pathlib import Path

import pytest

from agent.doctor import line, machine


def tree(root: Path, **files: str) -> Path:
    for name, content in files.items():
        file = root / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return root


def test_controllers_of_both_versions(tmp_path: Path) -> None:
    """A kernel that was told to leave memory out, as on a Raspberry Pi, is found, and the cure is named."""
    unified = tree(tmp_path / "two", **{"cgroup.controllers": "cpuset cpu io memory pids\n"})
    found = machine.control_groups(tmp_path, unified)
    assert (found.state, found.seen) == ("ok", "version 2, controllers cpu, cpuset, io, memory, pids")
    (unified / "cgroup.controllers").write_text("cpuset cpu io pids\n")
    found = machine.control_groups(tmp_path, unified)
    assert found.state == "failed"
    assert "missing: memory" in found.seen
    assert "cmdline.txt" in found.cure
    rows = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t1\t1\nmemory\t2\t1\t0\npids\t3\t1\t1\n"
    found = machine.control_groups(tree(tmp_path / "one", cgroups=rows), tmp_path / "nothing")
    assert (found.state, "missing: memory" in found.seen) == ("failed", True)
    assert machine.control_groups(tmp_path / "nothing", tmp_path / "nothing").state == "skipped"


def test_a_kernel_without_overlayfs(tmp_path: Path) -> None:
    """What is missing is named; a /proc that cannot be read is no failure."""
    proc = tree(tmp_path, filesystems="nodev\tproc\n\text4\n", self__status="Seccomp:\t2\n")
    for name in ("net", "pid", "mnt"):
        tree(proc, **{f"self__ns__{name}": ""})
    found = machine.kernel(proc)
    assert found.state == "warning"
    assert "without ipc namespaces, overlayfs" in found.seen
    assert machine.kernel(tmp_path / "nothing").state == "skipped"


@pytest.mark.parametrize(
    ("held", "reach", "state"),
    [(1 << 21 | 1 << 19, "auto", "ok"), (1 << 19, "auto", "warning"), (1 << 19, "namespace", "failed")],
)
def test_rights_matter_as_far_as_they_are_needed(tmp_path: Path, held: int, reach: str, state: str) -> None:
    """Without them there is another way, unless the operator has ruled it out."""
    proc = tree(tmp_path, self__status=f"Name:\tx\nCapEff:\t{held:016x}\n", **{"2__comm": "kthreadd\n"})
    found = machine.rights(reach, proc)
    assert found.state == state
    assert ("CAP_SYS_ADMIN" in found.seen) is True


def test_the_proc_of_a_container_is_not_the_hosts(tmp_path: Path) -> None:
    """Rights are of no use where the engine's processes are not to be seen."""
    proc = tree(tmp_path, self__status=f"CapEff:\t{1 << 21 | 1 << 19:016x}\n", **{"2__comm": "bash\n"})
    assert "the /proc of the host" in machine.rights("auto", proc).seen


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that is not there yet is looked at where it will be; little room and none are told apart."""
    assert machine.disk("data", tmp_path / "not" / "yet", "x").check == "disk-data"
    monkeypatch.setattr(machine, "LITTLE_DISK", 1 << 62)
    assert machine.disk("data", tmp_path, "make room").state == "warning"
    monkeypatch.setattr(machine, "NO_DISK", 1 << 62)
    found = machine.disk("data", tmp_path, "make room")
    assert (found.state, found.cure) == ("failed", "make room")
    assert " MiB " in found.seen, "what is little is said in a unit that shows it"


@pytest.mark.parametrize(("ahead", "state"), [(0, "ok"), (10, "warning"), (-10, "warning"), (300, "failed")])
def test_whose_clock_is_right(ahead: int, state: str) -> None:
    """Whole seconds are all that an answer tells, so a difference counts when it is sure."""
    now = time.time()
    offset = line._offset(formatdate(now + ahead, usegmt=True), now, now + 0.01)
    assert offset is not None
    assert abs(offset - ahead) <= 1.01
    assert line._clock(offset).state == state
    assert line._offset("yesterday", now, now) is None
    assert line._offset(None, now, now) is None
