"""Which container the agent itself runs in."""

from __future__ import annotations

from pathlib import Path

from agent.containers.own_container import candidates

ID = "0b23a1dea6e04366" * 4


def test_the_engine_mounts_files_of_its_own(tmp_path: Path) -> None:
    """The id is that of the directory that hostname and the like come from, told once."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "603 584 254:0 / / rw - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/X\n"
        f"610 603 254:0 /var/lib/docker/containers/{ID}/resolv.conf /etc/resolv.conf rw - ext4 /dev/vda rw\n"
        f"611 603 254:0 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw - ext4 /dev/vda rw\n"
    )
    assert candidates(mounts) == [ID]


def test_on_a_machine_there_is_none(tmp_path: Path) -> None:
    """Nor where there is no such file at all."""
    (tmp_path / "mountinfo").write_text("22 1 254:0 / / rw - ext4 /dev/vda rw\n")
    assert candidates(tmp_path / "mountinfo") == []
    assert candidates(tmp_path / "missing") == []
