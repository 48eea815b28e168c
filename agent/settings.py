"""Settings of a program: TOML files < credentials < environment < flags, decoded into msgspec Structs.

A configuration is a Struct whose fields are sections, and a section is a Struct whose fields are
settings. ``slots`` of section ``capacity`` is ``slots = 4`` under ``[capacity]`` in a file,
``FERND_CAPACITY_SLOTS=4`` in the environment, and ``capacity.slots`` in messages and as the name of a credential:
a file in the directory that systemd's LoadCredential= filled, or that holds a container's secrets.

Every setting is checked, also one that another overrides, and all problems are raised at once.
Messages never repeat a value: it may be a secret that stands in the wrong place.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import Struct, inspect

CONFIG_DIR = Path("/etc/fernd")

PREFIX = "FERND_"

SECTIONS = frozenset(
    {
        "access",
        "accounts",
        "availability",
        "capacity",
        "containers",
        "dispatcher",
        "images",
        "journal",
        "limits",
        "log",
        "metrics",
        "node",
        "otel",
        "queue",
        "quotas",
        "server",
        "stop",
        "store",
    }
)
"""Sections of both programs. One directory, and one environment, may hold the settings of both:
a program passes over the other's sections, but a section that neither has is a mistake."""

CREDENTIALS = "CREDENTIALS_DIRECTORY"
"""The variable that names the directory of credentials."""

NOT_SETTINGS = frozenset({"FERND_URL", "FERND_TOKEN"})
"""Variables with our prefix that belong to the client commands."""

_LISTEN = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]*):([0-9]{1,5})", re.ASCII)

T = TypeVar("T", bound=Struct)


class SettingsError(Exception):
    """Settings are wrong.

    Attributes:
        problems: One line each: the file or variable, the key, and what was expected.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


def host_and_port(listen: str) -> tuple[str, int]:
    """Take a place to listen at apart; the host without the brackets of an IPv6 address.

    Raises:
        ValueError: It is none.
    """
    found = _LISTEN.fullmatch(listen)
    if found is None or int(found[2]) > 65_535:
        raise ValueError("listen: expected HOST:PORT, such as 127.0.0.1:7070")
    return found[1].strip("[]"), int(found[2])


class _Given(NamedTuple):
    """One setting as somebody wrote it."""

    where: str
    section: str
    key: str
    value: object
    text: bool
    """The value is text whatever its type, as in the environment and in flags."""


def default_files(directory: Path = CONFIG_DIR) -> list[Path]:
    """List the configuration files of a directory, in the order in which they are read."""
    return sorted(directory.glob("*.toml"))


def load(kind: type[T], files: Sequence[Path], environ: Mapping[str, str], flags: Mapping[str, object]) -> T:
    """Make a configuration; of several values of a setting the last one holds.

    Args:
        kind: The configuration's Struct.
        files: Read in this order; each must exist. Without files named by the user: `default_files`.
        environ: Variables; those without the prefix ``FERND_`` are passed over, but for `CREDENTIALS`.
        flags: ``section.key`` to value; None is passed over, as a flag that was not given.

    Raises:
        SettingsError: A setting is unknown, wrong or missing.
    """
    sections = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    problems: list[str] = []
    given = [
        *(setting for file in files for setting in _from_file(file, sections, problems)),
        *_from_credentials(environ.get(CREDENTIALS), sections, problems),
        *_from_environment(environ, sections, problems),
        *_from_flags(flags, sections),
    ]
    values: dict[str, dict[str, object]] = {section: {} for section in sections}
    unusable: set[str] = set()
    for setting in given:
        field = _settings_of(sections[setting.section]).get(setting.key)
        if field is None:
            problems.append(f"{setting.where}: no such setting{_hint(setting, sections)}")
            continue
        try:
            values[setting.section][field.name] = _decode(setting, field.type)
        except msgspec.ValidationError:
            # A value that cannot be used must not count as missing too: its place is taken.
            values[setting.section].setdefault(field.name, None)
            unusable.add(setting.section)
            problems.append(f"{setting.where}: expected {expected(field.type)}")
    for section, section_type in sections.items():
        for key, field in _settings_of(section_type).items():
            if field.required and field.name not in values[section]:
                unusable.add(section)
                variable = f"{PREFIX}{section}_{key}".upper()
                problems.append(f"{section}.{key} ({variable}) is not set: expected {expected(field.type)}")
    made: dict[str, object] = {}
    for field in msgspec.structs.fields(kind):
        section = field.encode_name
        try:
            made[field.name] = field.type(**values[section]) if section not in unusable else None
        except ValueError as error:  # a Struct's __post_init__ checks what a type cannot say: KEY: WHAT WAS EXPECTED
            key, _, words = str(error).partition(": ")
            places = [setting.where for setting in given if (setting.section, setting.key) == (section, key)]
            problems.append(f"{places[-1] if places else f'{section}.{key}'}: {words}")
    if problems:
        raise SettingsError(problems)
    return kind(**made)


# Where settings come from -------------------------------------------------------------------------


def _from_file(file: Path, sections: Mapping[str, Any], problems: list[str]) -> Iterator[_Given]:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(f"{file}: cannot be read: {error.strerror}")
        return
    except UnicodeDecodeError:
        problems.append(f"{file}: is not UTF-8 text")
        return
    except tomllib.TOMLDecodeError as error:
        problems.append(f"{file}: is not TOML: {error}")
        return
    for section, settings in content.items():
        if not isinstance(settings, dict):
            problems.append(f"{file}: {section}: stands outside a section, expected one such as [node] above it")
        elif section in sections:
            for key, value in settings.items():
                yield _Given(f"{file}: {section}.{key}", section, key, value, text=False)
        elif section not in SECTIONS:
            problems.append(f"{file}: [{section}]: no such section{_did_you_mean(section, SECTIONS | set(sections))}")


def _from_credentials(directory: str | None, sections: Mapping[str, Any], problems: list[str]) -> Iterator[_Given]:
    """Read the files that are named as settings are. Others may be for somebody else."""
    if not directory:
        return
    for file in sorted(Path(directory).glob("*.*")):
        section, _, key = file.name.partition(".")
        if section not in sections:
            continue
        try:
            yield _Given(str(file), section, key, file.read_text(encoding="utf-8").strip(), text=True)
        except OSError as error:
            problems.append(f"{file}: cannot be read: {error.strerror}")
        except UnicodeDecodeError:
            problems.append(f"{file}: is not UTF-8 text")


def _from_environment(environ: Mapping[str, str], sections: Mapping[str, Any], problems: list[str]) -> Iterator[_Given]:
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable in NOT_SETTINGS:
            continue
        section, _, key = variable.removeprefix(PREFIX).lower().partition("_")
        if section in sections:
            yield _Given(variable, section, key, environ[variable], text=True)
        elif section not in SECTIONS:
            known = (f"{PREFIX}{name}_{key}".upper() for name in SECTIONS | set(sections))
            problems.append(f"{variable}: no such setting{_did_you_mean(variable, known)}")


def _from_flags(flags: Mapping[str, object], sections: Mapping[str, Any]) -> Iterator[_Given]:
    for name, value in flags.items():
        if value is None:
            continue
        section, _, key = name.partition(".")
        if section not in sections or key not in _settings_of(sections[section]):
            raise ValueError(f"the flag's setting {name} is unknown")
        yield _Given("--" + key.replace("_", "-"), section, key, value, text=True)


def _settings_of(section_type: type[Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    return {field.encode_name: field for field in msgspec.structs.fields(section_type)}


# Decoding -----------------------------------------------------------------------------------------


def _decode(setting: _Given, kind: Any) -> object:
    value = setting.value
    if setting.text and isinstance(value, str) and _is_list(kind):
        value = [item.strip() for item in value.split(",") if item.strip()]
    decoded = msgspec.convert(value, kind, strict=not setting.text, dec_hook=_decode_path)
    if isinstance(decoded, float) and not math.isfinite(decoded):
        raise msgspec.ValidationError("not finite")
    return decoded


def _decode_path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str | Path) and str(value):
        return Path(value).expanduser()
    raise ValueError("not a path")


def _is_list(kind: Any) -> bool:
    info = inspect.type_info(kind)
    choices = info.types if isinstance(info, inspect.UnionType) else (info,)
    return any(isinstance(choice, inspect.ListType) for choice in choices)


# What was expected, in plain words ----------------------------------------------------------------


def expected(kind: Any) -> str:
    """Say in plain words what a setting of this type, or a field of a request, must be."""
    return _words(inspect.type_info(kind))


def _words(info: inspect.Type) -> str:  # noqa: C901, PLR0912 - one line for each kind of setting
    match info:
        case inspect.Metadata(type=inspect.StrType(pattern=str()), extra_json_schema={"description": str(words)}):
            return words
        case inspect.Metadata(type=inner):
            return _words(inner)
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return "a whole number" + _bounds(info.ge, info.gt, info.le, info.lt)
        case inspect.FloatType():
            return "a number" + _bounds(info.ge, info.gt, info.le, info.lt)
        case inspect.StrType(pattern=str(pattern)):
            return f"text of the form {pattern}"
        case inspect.StrType():
            return "text" + _length(info.min_length, info.max_length, "characters")
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(str(value) for value in values)
        case inspect.ListType(item_type=item):
            several = "a list" + _length(info.min_length, info.max_length, "items")
            return f"{several}, each {_words(item)} (in the environment separated by commas)"
        case inspect.DictType() | inspect.StructType():
            return "a table (in a file only)"
        case inspect.CustomType(cls=cls) if cls is Path:
            return "a path"
        case inspect.UnionType(types=types):
            return " or ".join(_words(choice) for choice in types if not isinstance(choice, inspect.NoneType))
        case _:
            raise TypeError(f"no setting can be of type {info}")


def _bounds(ge: float | None, gt: float | None, le: float | None, lt: float | None) -> str:
    parts = [
        f"{words} {bound:.15g}"
        for words, bound in (("of at least", ge), ("above", gt), ("of at most", le), ("below", lt))
        if bound is not None
    ]
    if ge is not None and le is not None:
        return f" from {ge:.15g} to {le:.15g}"
    return (" " + " and ".join(parts)) if parts else ""


def _length(least: int | None, most: int | None, things: str) -> str:
    if least is None and most is None:
        return ""
    if most is None:
        return f" of at least {least} {things}"
    return f" of {least or 0} to {most} {things}"


def _hint(setting: _Given, sections: Mapping[str, Any]) -> str:
    """Name the setting that was probably meant, as the writer would have to write it."""
    keys = _settings_of(sections[setting.section])
    close = difflib.get_close_matches(setting.key, keys, n=1)
    if close:
        variable = setting.where.startswith(PREFIX)
        name = f"{PREFIX}{setting.section}_{close[0]}".upper() if variable else f"{setting.section}.{close[0]}"
        return f", did you mean {name}?"
    return f", expected one of {', '.join(keys)}"


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f", did you mean {close[0]}?" if close else ""
