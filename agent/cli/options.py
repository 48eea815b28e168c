"""Options that several commands share."""

from __future__ import annotations

import re

import click

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_DURATION = re.compile(r"([0-9]{1,9})([smhd]?)", re.ASCII)

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
