"""The page of all settings, made from the Structs that hold them: see `docs.reference`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from agent.config import AgentConfig
from agent.settings import CONFIG_DIR, PREFIX, expected
from dispatcher.config import DispatcherConfig

_INTRODUCTION = f"""\
Both programs read `{CONFIG_DIR}/*.toml` in the order of their names, or the file that `--config` names. A file has
sections, such as `[limits]`, and a section has settings. Each setting is also an environment variable, which wins over
the files; a list is written there with commas. Flags win over both. One directory may hold the settings of both
programs: each passes over the sections that only the other has. A setting that is unknown or wrong is an error that
names the file or the variable, the key and what was expected; all errors are told at once."""

_FORM = re.compile(r"text of the form (\S+)")
_ATTRIBUTE = re.compile(r"^(\w+): (.*)$")


def page() -> Iterator[str]:
    """Write the page, paragraph by paragraph."""
    yield "# Configuration"
    yield _INTRODUCTION
    yield from _program("The agent", "`fernd agent`, also as it is started by `fernd up`.", AgentConfig)
    yield from _program("The dispatcher", "`fernd dispatcher`, also as it is started by `fernd up`.", DispatcherConfig)


def _program(title: str, words: str, config: type[Struct]) -> Iterator[str]:
    yield f"## {title}"
    yield words
    for section in msgspec.structs.fields(config):
        yield f"### [{section.encode_name}]"
        first = (inspect.getdoc(section.type) or "").partition("\n")[0]
        words = first.removeprefix(f"The section ``{section.encode_name}``").lstrip(":, ")
        yield _code(f"{words[0].upper()}{words[1:]}")
        yield "\n".join(_table(section.encode_name, section.type))


def _table(section: str, kind: type[Struct]) -> Iterator[str]:
    meanings = _meanings(kind)
    yield "| setting | meaning | default | takes | variable |"
    yield "| --- | --- | --- | --- | --- |"
    for setting in msgspec.structs.fields(kind):
        name = setting.encode_name
        cells = (
            f"`{name}`",
            _code(meanings[name]),
            _default(setting),
            _FORM.sub(r"text of the form `\1`", expected(setting.type)),
            f"`{PREFIX}{section}_{name}`".upper(),
        )
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _meanings(kind: type[Struct]) -> dict[str, str]:
    """Read what a Struct's docstring says of each of its fields."""
    _, _, described = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    meanings: dict[str, str] = {}
    name = ""
    for line in inspect.cleandoc(described).split("\n"):
        if found := _ATTRIBUTE.match(line):
            name = found[1]
            meanings[name] = found[2]
        elif line.strip():
            meanings[name] += f" {line.strip()}"
    return meanings


def _default(setting: msgspec.structs.FieldInfo) -> str:
    if setting.required:
        return "none: it must be set"
    value: Any = setting.default if setting.default is not msgspec.NODEFAULT else setting.default_factory()
    match value:
        case None:
            return "not set"
        case bool():
            return f"`{str(value).lower()}`"
        case int() | float():
            return f"`{value:.15g}`"
        case "":
            return "empty"
        case str() | Path():
            return f'`"{value}"`'
        case list():
            return f"`{value}`"
        case _:
            raise TypeError(f"{setting.name} has a default that has no words here: {value!r}")


def _code(text: str) -> str:
    """Turn the double backquotes of docstrings into the single ones of Markdown."""
    return text.replace("``", "`")
