"""What `fernd explain` prints, and the table that it prints from."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli.main import fernd
from agent.codes import CODES, REQUESTS, TASKS


@pytest.mark.parametrize("code", CODES)
def test_every_code_has_a_cause_and_a_cure(code: str) -> None:
    """They are sentences, and all of them are printed."""
    found = CODES[code]
    assert not found.title.endswith(".")
    assert found.cause.endswith(".")
    assert found.cure.endswith(".")
    done = CliRunner().invoke(fernd, ["explain", code])
    assert done.exit_code == 0
    assert done.output.startswith(f"{code} ({found.status}): {found.title}\n")
    assert f"Cause: {found.cause} Cure: {found.cure}" in " ".join(done.output.split())


def test_case_and_dashes_do_not_matter_and_a_slip_is_understood() -> None:
    """A code may be written as it stands in the type; one that is none is a usage error with a hint."""
    assert CliRunner().invoke(fernd, ["explain", "oom-killed"]).output.startswith("OOM_KILLED (500)")
    done = CliRunner().invoke(fernd, ["explain", "OOM_KILED"])
    assert (done.exit_code, "did you mean OOM_KILLED?" in done.output) == (2, True)
    assert "lists all codes" in CliRunner().invoke(fernd, ["explain", "zzz"]).output


def test_all_codes_are_listed() -> None:
    """Without a code there is a table of all, and one JSON document of the whole."""
    assert [line.split()[0] for line in CliRunner().invoke(fernd, ["explain"]).output.splitlines()[1:]] == list(CODES)
    assert [entry["code"] for entry in json.loads(CliRunner().invoke(fernd, ["explain", "--json"]).output)] == list(
        CODES
    )
    assert json.loads(CliRunner().invoke(fernd, ["explain", "TIMEOUT", "--json"]).output)["status"] == 504


def test_every_code_of_the_table_is_used_and_no_other() -> None:
    """What the dispatcher raises is in the table, and each code of a request is raised somewhere."""
    raised = {code for path in Path("dispatcher").rglob("*.py") for code in _raised(path)}
    assert raised == set(REQUESTS)
    assert not set(REQUESTS) & set(TASKS)


def test_commands_that_cures_name_are_commands() -> None:
    """A cure that names a command of ours names one that there is."""
    for code in CODES.values():
        for words in re.findall(r"`fernd ([a-z -]+?)(?: [A-Z-]|`)", f"{code.cause} {code.cure}"):
            assert CliRunner().invoke(fernd, [*words.split(), "--help"]).exit_code == 0, words


def _raised(path: Path) -> Iterator[str]:
    """Find the codes that problems of a module are made with."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Problem":
            first = node.args[0]
            if isinstance(first, ast.Constant):
                yield str(first.value)
