"""A command of `fernd up` in its own process, which ends when `fernd up` is gone.

``fernd up`` holds the other end of this process's stdin and never writes to it. The kernel closes
it however ``fernd up`` ends, also by SIGKILL, and the read below then returns: that needs neither a
kernel that knows parent death signals nor a check for the moment before they are set.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from agent.cli.main import fernd


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, name="end with parent", daemon=True).start()
    fernd(args=sys.argv[1:], prog_name="fernd")
