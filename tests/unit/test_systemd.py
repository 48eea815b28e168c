"""What the service manager hears, over a real socket, and when."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from agent.service import Reporter
from agent.systemd import ServiceManager
from agent.vitals import DUE_SECONDS, Vitals


class Heard:
    """The manager's side of the socket."""

    def __init__(self, path: Path) -> None:
        self.environ = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "20000000"}
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._line.bind(str(path))
        self._line.setblocking(False)

    def messages(self) -> list[dict[str, str]]:
        """Everything since the last time."""
        found: list[dict[str, str]] = []
        while True:
            try:
                text = self._line.recv(65536).decode()
            except BlockingIOError:
                return found
            found.append(dict(line.split("=", 1) for line in text.splitlines()))

    def close(self) -> None:
        self._line.close()


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[Heard]:
    manager = Heard(tmp_path / "notify")
    yield manager
    manager.close()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Service:
    def __init__(self) -> None:
        self.is_up = False
        self.stop_seconds: float | None = None
        self.words = "starting: the engine is not found yet"

    def summary(self) -> str:
        return self.words


def never() -> Sequence[str]:
    return []


def test_without_a_manager_nothing_is_said() -> None:
    """A process that nobody supervises says nothing, and needs no special case for it."""
    manager = ServiceManager({})
    assert not manager.listens
    manager.ready("ready")


def test_a_watchdog_that_was_meant_for_another_process(heard: Heard) -> None:
    """Variables that were handed on to a child do not concern it."""
    assert ServiceManager(heard.environ | {"WATCHDOG_PID": "1"}).watchdog_seconds is None
    assert ServiceManager(heard.environ | {"WATCHDOG_PID": str(os.getpid())}).watchdog_seconds == 20.0
    assert ServiceManager(heard.environ | {"WATCHDOG_USEC": "soon"}).watchdog_seconds is None


def test_an_abstract_socket() -> None:
    """A name with @ before it is a socket without a file."""
    name = f"fernd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind("\0" + name)
        ServiceManager({"NOTIFY_SOCKET": "@" + name}).status("here\nand there")
        assert line.recv(100) == b"STATUS=here and there\n"


def test_a_manager_that_is_gone_does_no_harm(tmp_path: Path) -> None:
    """Where nobody listens on the socket any more, the service goes on."""
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).alive()


def test_the_life_of_a_service(heard: Heard) -> None:
    """More time until it is up, READY once, the status when it changes, a sign of life at each look, the stop."""
    service = Service()
    reporter = Reporter(ServiceManager(heard.environ), service, never)

    reporter.look()
    reporter.look()
    said = heard.messages()
    assert [list(message) for message in said] == [["STATUS"], ["EXTEND_TIMEOUT_USEC"], ["EXTEND_TIMEOUT_USEC"]]
    assert reporter.interval == 1.0

    service.is_up, service.words = True, "ready: 0 tasks run"
    reporter.look()
    reporter.look()
    assert heard.messages() == [{"READY": "1", "STATUS": "ready: 0 tasks run"}, {"WATCHDOG": "1"}, {"WATCHDOG": "1"}]
    assert reporter.interval == 5.0, "a fourth of the watchdog's time"

    service.is_up, service.words = False, "ready: no session"
    reporter.look()
    assert heard.messages() == [{"STATUS": "ready: no session"}, {"WATCHDOG": "1"}], "up once is up"

    service.stop_seconds, service.words = 105.0, "draining: 1 task runs"
    reporter.look()
    service.stop_seconds = 100.0
    reporter.look()
    assert heard.messages() == [
        {"STOPPING": "1", "STATUS": "draining: 1 task runs"},
        {"WATCHDOG": "1"},
        {"EXTEND_TIMEOUT_USEC": "105000000"},
        {"WATCHDOG": "1"},
        {"EXTEND_TIMEOUT_USEC": "100000000"},
    ], "as long as its loops get on it is waited for, however long its work takes"


def test_a_stalled_loop_starves_the_watchdog(heard: Heard) -> None:
    """One loop of the board that does not get on, while all others do, ends in a word to be restarted."""
    clock, service = Clock(), Service()
    vitals = Vitals(clock)
    service.is_up = True
    reporter = Reporter(ServiceManager(heard.environ), service, vitals.stalled)
    vitals.beat("journal")
    vitals.beat("engine")
    reporter.look()
    heard.messages()

    clock.now += DUE_SECONDS["journal"] + 1
    vitals.beat("engine")
    reporter.look()
    assert {"WATCHDOG": "1"} in heard.messages(), "a machine that stood still as a whole is forgiven one look"

    clock.now += 5
    reporter.look()
    assert heard.messages() == [{"STATUS": "stalled: journal", "WATCHDOG": "trigger"}]

    vitals.beat("journal")
    reporter.look()
    assert {"WATCHDOG": "1"} in heard.messages(), "one that goes on after all is alive"


def test_a_machine_that_stood_still_is_no_stall(heard: Heard) -> None:
    """After a pause of the whole machine every loop is late at the first look, and none at the second."""
    clock, service = Clock(), Service()
    vitals = Vitals(clock)
    service.is_up = True
    reporter = Reporter(ServiceManager(heard.environ), service, vitals.stalled)
    vitals.beat("journal")
    clock.now += 3600
    reporter.look()
    vitals.beat("journal")
    clock.now += 5
    reporter.look()
    assert not any(message.get("WATCHDOG") == "trigger" for message in heard.messages())


def test_a_service_that_hangs_before_it_is_up_gets_no_more_time(heard: Heard) -> None:
    """What stalls during its start is restarted too."""
    clock = Clock()
    vitals = Vitals(clock)
    reporter = Reporter(ServiceManager(heard.environ), Service(), vitals.stalled)
    vitals.beat("engine")
    clock.now += DUE_SECONDS["engine"] + 1
    reporter.look()
    heard.messages()
    reporter.look()
    assert heard.messages() == [{"STATUS": "stalled: engine", "WATCHDOG": "trigger"}]
