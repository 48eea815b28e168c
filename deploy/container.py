# ruff: noqa: INP001 - it runs in the image, where it is in no package
"""The first process of fernd's container: gives up root, where it can, and becomes `fernd` with the same arguments.

The agent needs the engine's socket and nothing else that root has. Whose group the socket has differs from machine to
machine, so it is looked up here. With CAP_SYS_ADMIN, which nobody has by accident, it stays root: then it is to enter
the network namespaces of functions.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

USER = 10001
DATA = Path(os.environ.get("STATE_DIRECTORY", "/var/lib/fernd"))
SOCKET = Path("/var/run/docker.sock")
CAP_SYS_ADMIN = 1 << 21


def has_sys_admin() -> bool:
    """Say whether this process may enter namespaces."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return bool(int(value, 16) & CAP_SYS_ADMIN)
    return False


def give_up_root() -> None:
    """Go on as a user who owns the data directory and may use the engine's socket."""
    for path in (DATA, *DATA.rglob("*")):
        if path.lstat().st_uid != USER:
            os.chown(path, USER, USER, follow_symlinks=False)
    groups = [USER]
    if SOCKET.exists() and stat.S_ISSOCK(SOCKET.stat().st_mode):
        groups.append(SOCKET.stat().st_gid)
    os.setgroups(groups)
    os.setgid(USER)
    os.setuid(USER)


def main() -> None:
    """Become fernd."""
    if os.getuid() == 0 and not has_sys_admin():
        give_up_root()
    os.environ["HOME"] = str(DATA)
    os.execv("/opt/fernd/bin/fernd", ["fernd", *sys.argv[1:]])  # noqa: S606 - there is no shell between


if __name__ == "__main__":
    main()
