"""Who this node is: its id, its dispatchers and its credential, as files in the data directory."""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
from msgspec import Struct

_NODE_FILE = "node.json"
_CREDENTIAL_FILE = "credential"
_LOCK_FILE = "agent.lock"


class IdentityError(Exception):
    """The files do not say who this node is; the text is a sentence for the operator."""


class Identity(Struct, frozen=True):
    """The content of ``node.json``.

    Attributes:
        id: UUID of the node; it stays when the node joins again.
        dispatchers: Base addresses, tried in turn.
    """

    id: str
    dispatchers: list[str]


def has_joined(data_dir: Path) -> bool:
    """Tell whether a data directory is that of a node."""
    return (data_dir / _NODE_FILE).exists()


def load_identity(data_dir: Path) -> Identity | None:
    """Read who this node is; None where it never joined.

    Raises:
        IdentityError: The file cannot be read.
    """
    file = data_dir / _NODE_FILE
    try:
        identity = msgspec.json.decode(file.read_bytes(), type=Identity)
        uuid.UUID(identity.id)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise IdentityError(f"{file} cannot be used: {error}") from None
    return identity


def load_credential(data_dir: Path) -> str:
    """Read the credential.

    Raises:
        IdentityError: There is none, or it cannot be read.
    """
    file = data_dir / _CREDENTIAL_FILE
    try:
        credential = file.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise IdentityError(f"{file} cannot be used: {error}") from None
    if not credential:
        raise IdentityError(f"{file} is empty; `fernd agent join` gets a new credential")
    return credential


def save(data_dir: Path, identity: Identity, credential: str) -> None:
    """Keep who this node is, the credential first, for nobody but the owner of the process to read.

    Raises:
        IdentityError: The files cannot be written.
    """
    try:
        make_data_dir(data_dir)
        _write(data_dir / _CREDENTIAL_FILE, credential.encode("ascii") + b"\n")
        _write(data_dir / _NODE_FILE, msgspec.json.format(msgspec.json.encode(identity)) + b"\n")
    except OSError as error:
        raise IdentityError(f"{data_dir} cannot be written: {error.strerror}") from None


def make_data_dir(data_dir: Path) -> None:
    """Make the directory, for its owner alone, if it is not there.

    Raises:
        OSError: It cannot be made.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)


@contextmanager
def only_one(data_dir: Path) -> Iterator[None]:
    """Be the only agent of a data directory.

    Raises:
        IdentityError: Another one runs, or the directory cannot be used.
    """
    try:
        make_data_dir(data_dir)
        descriptor = os.open(data_dir / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _belong(descriptor, data_dir)
    except OSError as error:
        raise IdentityError(f"{data_dir} cannot be used: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise IdentityError(f"another agent runs with {data_dir}") from None
        yield
    finally:
        os.close(descriptor)


def _write(file: Path, content: bytes) -> None:
    """Write a file at once and whole: a reader, or a crash, meets the old one or the new one."""
    partial = file.with_name(file.name + ".new")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as target:
        _belong(descriptor, file.parent)
        target.write(content)
        target.flush()
        os.fsync(target.fileno())
    partial.replace(file)


def _belong(descriptor: int, directory: Path) -> None:
    """Have a file belong to whoever its directory belongs to: root may act for a service that is not root."""
    if os.geteuid() == 0:
        owner = directory.stat()
        with suppress(PermissionError):  # root without CAP_CHOWN, in a container, keeps it
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
