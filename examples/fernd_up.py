"""One run of `fernd up` in a process of its own: started, waited for, stopped."""

from __future__ import annotations

import contextlib
import queue
import socket
import subprocess
import sys
import threading
from pathlib import Path

from checks import Wrong, expect

ROOT = Path(__file__).resolve().parent.parent
USUAL_PORT = 7070
READY_SECONDS = 60.0
STOP_SECONDS = 60.0


class Fernd:
    """One run of `fernd up`."""

    def __init__(self, data: Path) -> None:
        """Start it, with its log beside its data."""
        data.mkdir(parents=True, exist_ok=True)
        self._log = data / "fernd.log"
        # It gets a session of its own: Ctrl-C is for us, and we stop it in order.
        command = [
            sys.executable,
            "-m",
            "agent.cli",
            "up",
            "--data-dir",
            str(data),
            "--listen",
            f"127.0.0.1:{free_port()}",
        ]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        if self._process.stdout is not None:
            for line in self._process.stdout:
                self._lines.put(line)
        self._lines.put("")

    def ready(self) -> str:
        """Wait until it takes work, and give its address.

        Raises:
            Wrong: It does not come up.
        """
        with contextlib.suppress(queue.Empty):
            line = self._lines.get(timeout=READY_SECONDS)
            if line.startswith("fernd is ready at "):
                return line.split()[4]
        raise Wrong(f"fernd up did not become ready; {self._last_lines()}")

    def wait(self) -> None:
        """Wait until it ends by itself, which it should not."""
        code = self._process.wait()
        raise Wrong(f"fernd up ended by itself with {code}; {self._last_lines()}")

    def stop(self) -> None:
        """Let it finish what runs, and end.

        Raises:
            Wrong: It fails, or does not end.
        """
        self._process.terminate()
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise Wrong(f"fernd up did not end within {STOP_SECONDS:g} s of SIGTERM") from None
        expect(code == 0, f"fernd up ended with {code}; {self._last_lines()}")

    def hurry(self) -> None:
        """Have it give back what runs, instead of waiting for it, once it is being stopped."""
        if self._process.poll() is None:
            self._process.terminate()

    def _last_lines(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-10:]
        return "\n".join([f"the end of {self._log}:", *lines])


def free_port() -> int:
    """Give fernd's usual port, or 0, which stands for any free one, where that is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", USUAL_PORT))
        except OSError:
            return 0
        return USUAL_PORT
