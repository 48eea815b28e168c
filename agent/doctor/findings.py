"""What the doctor says of one thing that it looked at."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

State = Literal["ok", "warning", "failed", "skipped"]


class Finding(Struct, frozen=True):
    """One check, with what was seen.

    Attributes:
        check: A name that stays the same, such as ``engine``.
        state: ``warning``: tasks run, and something is not as it should be. ``skipped``: it could not be looked at.
        seen: In a sentence.
        cure: What to do; empty where nothing is to be done.
    """

    check: str
    state: State
    seen: str
    cure: str = ""


def worst(*findings: Finding) -> bool:
    """Say whether one of them failed."""
    return any(finding.state == "failed" for finding in findings)
