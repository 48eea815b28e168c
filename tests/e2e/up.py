"""A running `fernd up`."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil

SECONDS = 30.0
"""Whatever is waited for is there within so long, on a slow machine too."""


class Up:
    """A running `fernd up`."""

    def __init__(self, directory: Path, listen: str = "127.0.0.1:0") -> None:
        self.directory = directory
        self.log = directory.with_name(directory.name + ".log").open("ab")
        command = [sys.executable, "-m", "agent.cli", "up", "--data-dir", str(directory), "--listen", listen]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        ready = re.fullmatch(r"fernd is ready at (\S+) with the token in (\S+)\n", self.line)
        assert ready, Path(self.log.name).read_text()
        self.url, self.token_file = ready[1], Path(ready[2])
        self.children = {self._name(child): child for child in psutil.Process(self.process.pid).children()}

    @staticmethod
    def _name(child: psutil.Process) -> str:
        line = child.cmdline()
        return line[line.index("agent.cli.kept") + 1]

    @property
    def environ(self) -> dict[str, str]:
        """What commands need to find it."""
        return {"FERND_URL": self.url, "FERND_TOKEN": self.token_file.read_text().strip()}

    def stop(self) -> int:
        """End it, if it has not ended, and give its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end and that of its children; give its exit code."""
        code = self.process.wait(SECONDS)
        _, left = psutil.wait_procs(self.children.values(), SECONDS)
        assert left == []
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()
        return code
