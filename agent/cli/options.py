"""Options that several commands share."""

from __future__ import annotations

import re
from typing import Any

import click

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_DURATION = re.compile(r"([0-9]{1,9})([smhd]?)", re.ASCII)

NONE = object()
"""What `OrNone` makes of the word none: unlike None, which is an option that was not given."""

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def pairs(_context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> list[tuple[str, str]]:
    """Read the values of an option that is written KEY=VALUE and may be repeated.

    Raises:
        click.BadParameter: One has no ``=``, or no key.
    """
    split = [item.partition("=") for item in given]
    if any(not (key and equals) for key, equals, _ in split):
        raise click.BadParameter("expected KEY=VALUE", param=parameter)
    return [(key, value) for key, _, value in split]


def seconds(_context: click.Context, parameter: click.Parameter, given: str | None) -> int | None:
    """Read a number of seconds, or of other units: 90, 15m, 12h, 30d.

    Raises:
        click.BadParameter: It is none.
    """
    if given is None:
        return None
    found = _DURATION.fullmatch(given)
    if found is None:
        raise click.BadParameter("expected a time such as 90, 15m, 12h or 30d", param=parameter)
    return int(found[1]) * _UNITS[found[2] or "s"]


class OrNone(click.ParamType[Any]):
    """A value of another type, or the word none, which becomes `NONE`."""

    def __init__(self, inner: click.ParamType[Any]) -> None:
        self.name = f"{inner.name} or none"
        self._inner = inner

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read a value."""
        if value is NONE or value == "none":
            return NONE
        return self._inner.convert(value, param, ctx)
