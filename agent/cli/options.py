"""Options that several commands share."""

from __future__ import annotations

import click

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
