"""How commands fail: a sentence on stderr and an exit code that scripts can rely on."""

from __future__ import annotations

import json
from typing import IO, Any

import click

from agent.cli.render import plain

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_INTERRUPTED = 130


class Failed(click.ClickException):
    """What was asked for did not happen."""

    exit_code = EXIT_FAILED

    def show(self, file: IO[Any] | None = None) -> None:
        """Print ``error: …`` on stderr."""
        click.echo(f"error: {self.format_message()}", file=file, err=True)


class Refused(Failed):
    """The dispatcher said no.

    Attributes:
        status: The answer's HTTP status.
        code: The stable code of the problem, such as ``NOT_FOUND``; empty where it has none.
    """

    def __init__(self, message: str, status: int, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Misused(Refused):
    """The dispatcher found a mistake that the command could have found itself."""

    exit_code = EXIT_USAGE


class Unreachable(Failed):
    """There is no way to the dispatcher, or it went silent."""

    exit_code = EXIT_UNREACHABLE


def refusal(status: int, body: bytes) -> Refused:
    """Make the error of an answer that is not 2xx, from its problem+json where it has one."""
    problem = parse_problem(body)
    if problem is None:
        return Refused(f"the dispatcher answered {status}", status)
    code = str(problem["code"])
    kind = Misused if code == "INVALID" else Refused
    return kind(describe(problem), status, code)


def parse_problem(body: bytes) -> dict[str, Any] | None:
    """Read a problem+json with a code; None where it is something else."""
    try:
        problem = json.loads(body)
    except ValueError:
        return None
    return problem if isinstance(problem, dict) and isinstance(problem.get("code"), str) else None


def describe(problem: dict[str, Any]) -> str:
    """Write a problem as ``CODE: detail (field)``."""
    field, detail = problem.get("field"), str(problem.get("detail") or problem.get("title"))
    where = f" ({field})" if field and str(field) not in detail else ""
    return plain(f"{problem['code']}: {detail}{where}")
