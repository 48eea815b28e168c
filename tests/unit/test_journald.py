"""Entries of systemd's journal: what is read, what can be searched, and where it goes without a journal."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from agent.journald import Entries, entry, is_stderr


def fields(raw: bytes) -> dict[str, str]:
    """Read an entry as journald does."""
    found = {}
    while raw:
        name, _, raw = raw.partition(b"\n")
        size = int.from_bytes(raw[:8], "little")
        found[name.decode()], raw = raw[8 : 8 + size].decode(), raw[8 + size + 1 :]
    return found


def test_an_entry_has_words_and_fields() -> None:
    """The event and its values are the words; each value is a field as well, whatever its name and type."""
    found = fields(entry({"level": "warning", "event": "no session", "task": "6b05", "retry_in": 1.5, "a-b": ["x\ny"]}))
    assert found["MESSAGE"] == 'no session task=6b05 retry_in=1.5 a-b=["x\\ny"]'
    assert found["PRIORITY"] == "4"
    assert found["SYSLOG_IDENTIFIER"] == "fernd"
    assert (found["FERND_EVENT"], found["FERND_TASK"], found["FERND_RETRY_IN"]) == ("no session", "6b05", "1.5")
    assert found["FERND_A_B"] == '["x\\ny"]'


def test_entries_go_to_the_journal_and_otherwise_elsewhere(tmp_path: Path) -> None:
    """A line that the journal does not take is not lost."""
    missed: list[dict[str, Any]] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "journal"))
        log = Entries(missed.append, str(tmp_path / "journal"))
        log.info({"level": "info", "event": "node is ready"})
        assert fields(journal.recv(4096))["MESSAGE"] == "node is ready"
        assert missed == []
    (tmp_path / "journal").unlink()
    log.error({"level": "error", "event": "lost?"})
    assert missed == [{"level": "error", "event": "lost?"}]
    log._line.close()


def test_stderr_is_the_journal_only_where_it_says_so() -> None:
    """The variable is handed on to children, whose stderr may be a file: numbers must agree."""
    assert not is_stderr({})
    assert not is_stderr({"JOURNAL_STREAM": "1:2"})
