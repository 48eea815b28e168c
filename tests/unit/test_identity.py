"""Who the node is, as files."""

from __future__ import annotations

import os
import stat
import uuid
from pathlib import Path

import pytest

from agent.identity import Identity, IdentityError, load_credential, load_identity, only_one, save

NODE = Identity(str(uuid.UUID(int=1)), ["https://fernd.example.org"])


def test_it_is_kept_for_the_owner_alone(tmp_path: Path) -> None:
    """What was saved is read again; nobody else may read directory or credential."""
    directory = tmp_path / "new" / "agent"
    assert load_identity(directory) is None
    save(directory, NODE, "credential-1")
    save(directory, NODE, "credential-2")
    assert load_identity(directory) == NODE
    assert load_credential(directory) == "credential-2"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "credential").stat().st_mode) == 0o600
    assert sorted(file.name for file in directory.iterdir()) == ["credential", "node.json"]


@pytest.mark.parametrize("content", [b"", b"{", b'{"id": "no uuid", "dispatchers": []}', b"[]", b"\xff"])
def test_a_file_that_says_something_else_is_named(tmp_path: Path, content: bytes) -> None:
    """The operator hears which file is wrong."""
    (tmp_path / "node.json").write_bytes(content)
    with pytest.raises(IdentityError, match=r"node\.json cannot be used"):
        load_identity(tmp_path)


def test_a_missing_credential_is_said(tmp_path: Path) -> None:
    """No credential and an empty one are both errors, not an empty header."""
    with pytest.raises(IdentityError, match="credential"):
        load_credential(tmp_path)
    (tmp_path / "credential").write_text("\n")
    with pytest.raises(IdentityError, match="empty"):
        load_credential(tmp_path)


def test_one_agent_for_one_directory(tmp_path: Path) -> None:
    """A second agent with the same data would fight the first one for the session; it does not start."""
    with only_one(tmp_path), pytest.raises(IdentityError, match="another agent"), only_one(tmp_path):
        pass
    with only_one(tmp_path):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_joins_for_a_service(tmp_path: Path) -> None:
    """What root saves belongs to whoever the directory belongs to, who must be able to read it."""
    os.chown(tmp_path, 65534, 65534)
    save(tmp_path, NODE, "credential-1")
    assert {(file.stat().st_uid, file.stat().st_gid) for file in tmp_path.iterdir()} == {(65534, 65534)}
