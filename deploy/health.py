# ruff: noqa: INP001 - it runs in the image, where it is in no package
"""The image's health check: exit code 0 if what runs here works.

An agent is asked over its control socket, and is well unless one of its control loops has stalled: one that waits for
its engine or its dispatcher is well too, and says so in `fernd node list`. A dispatcher is asked at /readyz.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

ADDRESS = "http://127.0.0.1:7070/readyz"


def agent_is_well() -> bool:
    """Ask the agent how its loops are."""
    done = subprocess.run(["/opt/fernd/bin/fernd", "agent", "status", "--json"], capture_output=True, check=False)
    return done.returncode == 0 and not any(loop["stalled"] for loop in json.loads(done.stdout)["loops"])


def dispatcher_is_well() -> bool:
    """Ask the dispatcher whether its store answers."""
    try:
        with urllib.request.urlopen(ADDRESS, timeout=8) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


if __name__ == "__main__":
    identity = Path(os.environ.get("STATE_DIRECTORY", "/var/lib/fernd"), "node.json")
    if not identity.exists():
        sys.exit(not dispatcher_is_well())
    owner = identity.stat()
    if os.getuid() != owner.st_uid:
        # The check starts as root, which without its rights may not speak to another's socket.
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)
    sys.exit(not agent_is_well())
