"""Settings: which source goes before which, and how mistakes are told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta, Struct, field

from agent import settings
from agent.config import AgentConfig
from agent.settings import SettingsError
from dispatcher.config import DispatcherConfig

SECRET = "hunter2-hunter2"


class Node(Struct, frozen=True):
    data_dir: Path
    urls: list[str] = []
    quiet: bool = False
    color: Literal["red", "green"] = "red"


class Capacity(Struct, frozen=True):
    slots: Annotated[int, Meta(ge=1, le=64)] = 8
    cpu: Annotated[float, Meta(gt=0)] | None = None
    least: int = 0
    most: int = 10

    def __post_init__(self) -> None:
        if self.least > self.most:
            raise ValueError("least: expected at most as many as in most")


class Config(Struct, frozen=True):
    node: Node
    capacity: Capacity = field(default_factory=Capacity)


def problems(
    files: list[Path] | None = None, environ: dict[str, str] | None = None, flags: dict[str, object] | None = None
) -> list[str]:
    given = {"node.data_dir": "/d"} | (flags or {})
    with pytest.raises(SettingsError) as raised:
        settings.load(Config, files or [], environ or {}, given)
    assert SECRET not in str(raised.value)
    return raised.value.problems


def test_precedence(tmp_path: Path) -> None:
    """A later file goes before an earlier one, the environment before files, and flags before all."""
    first, second = tmp_path / "1.toml", tmp_path / "2.toml"
    first.write_text('[node]\ndata_dir = "/first"\nquiet = true\n[capacity]\nslots = 1\ncpu = 1\nleast = 1\n')
    second.write_text("[capacity]\nslots = 2\ncpu = 2.5\nleast = 2\n")
    environ = {"FERND_CAPACITY_SLOTS": "3", "FERND_CAPACITY_CPU": "3.5", "PATH": "/bin"}
    config = settings.load(Config, [first, second], environ, {"capacity.slots": "4", "capacity.cpu": None})
    assert config == Config(Node(Path("/first"), quiet=True), Capacity(slots=4, cpu=3.5, least=2))


def test_environment_is_text_of_every_type() -> None:
    """The environment holds numbers, booleans, lists and paths as text."""
    environ = {
        "FERND_NODE_DATA_DIR": "~/x",
        "FERND_NODE_URLS": "http://a, http://b,",
        "FERND_NODE_QUIET": "true",
        "FERND_NODE_COLOR": "green",
    }
    config = settings.load(Config, [], environ, {})
    assert config.node == Node(Path.home() / "x", ["http://a", "http://b"], quiet=True, color="green")


def test_flags_may_have_their_type_already() -> None:
    """The command line may hand over paths, numbers and tuples instead of text."""
    flags = {"node.data_dir": Path("/x"), "node.urls": ("http://a",), "capacity.slots": 2}
    assert settings.load(Config, [], {}, flags) == Config(Node(Path("/x"), ["http://a"]), Capacity(slots=2))


def test_files_are_strict_about_types(tmp_path: Path) -> None:
    """A number in quotes is a mistake in a file, where types can be written."""
    file = tmp_path / "a.toml"
    file.write_text('[capacity]\nslots = "4"\n')
    assert problems([file]) == [f"{file}: capacity.slots: expected a whole number from 1 to 64"]


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    """Every mistake of every source is in one error, with its place and what was expected, and no value."""
    file = tmp_path / "a.toml"
    file.write_text(
        f'loose = "{SECRET}"\n[capcity]\nslots = 4\n[capacity]\nslot = 4\ncpu = nan\n[node]\nurls = "{SECRET}"\n'
        f'quiet = "{SECRET}"\ncolor = "{SECRET}"\n'
    )
    environ = {"FERND_CAPACITY_SLOTS": SECRET, "FERND_CAPCITY_SLOTS": SECRET, "FERND_NODE": SECRET}
    missing = tmp_path / "missing.toml"
    assert problems([file, missing], environ, {"capacity.cpu": "0"}) == [
        f"{file}: loose: stands outside a section, expected one such as [node] above it",
        f"{file}: [capcity]: no such section, did you mean capacity?",
        f"{missing}: cannot be read: No such file or directory",
        "FERND_CAPCITY_SLOTS: no such setting, did you mean FERND_CAPACITY_SLOTS?",
        f"{file}: capacity.slot: no such setting, did you mean capacity.slots?",
        f"{file}: capacity.cpu: expected a number above 0",
        f"{file}: node.urls: expected a list, each text (in the environment separated by commas)",
        f"{file}: node.quiet: expected true or false",
        f"{file}: node.color: expected one of green, red",
        "FERND_CAPACITY_SLOTS: expected a whole number from 1 to 64",
        "FERND_NODE: no such setting, expected one of data_dir, urls, quiet, color",
        "--cpu: expected a number above 0",
    ]


def test_a_setting_without_default_must_be_given() -> None:
    """What is missing is told with the variable that could set it."""
    with pytest.raises(SettingsError) as raised:
        settings.load(Config, [], {}, {})
    assert raised.value.problems == ["node.data_dir (FERND_NODE_DATA_DIR) is not set: expected a path"]


def test_an_unusable_setting_is_not_missing_too() -> None:
    """One mistake makes one problem."""
    with pytest.raises(SettingsError) as raised:
        settings.load(Config, [], {"FERND_NODE_DATA_DIR": ""}, {})
    assert raised.value.problems == ["FERND_NODE_DATA_DIR: expected a path"]


def test_what_holds_between_settings() -> None:
    """A section's own check is told like any other problem, with its place, and together with those of others."""
    told = "expected at most as many as in most"
    assert problems(environ={"FERND_CAPACITY_LEAST": "11"}) == [f"FERND_CAPACITY_LEAST: {told}"]
    assert problems(environ={"FERND_CAPACITY_MOST": "-1"}) == [f"capacity.least: {told}"]
    assert problems(environ={"FERND_CAPACITY_LEAST": "11", "FERND_NODE_QUIET": "maybe"}) == [
        "FERND_NODE_QUIET: expected true or false",
        f"FERND_CAPACITY_LEAST: {told}",
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"a = ", "is not TOML: Invalid value (at end of document)"), (b"\xff", "is not UTF-8 text")],
)
def test_files_that_are_no_settings(tmp_path: Path, content: bytes, said: str) -> None:
    """A file that cannot be understood is a problem, not a traceback."""
    file = tmp_path / "a.toml"
    file.write_bytes(content)
    assert problems([file]) == [f"{file}: {said}"]


def test_the_other_programs_settings_are_passed_over(tmp_path: Path) -> None:
    """One directory and one environment serve both programs; the client's variables are no settings."""
    file = tmp_path / "a.toml"
    file.write_text("[store]\nanything = 1\n[queue]\n")
    environ = {"FERND_STORE_ANYTHING": "1", "FERND_URL": "http://a", "FERND_TOKEN": SECRET, "FERNDALE": "1"}
    settings.load(Config, [file], environ, {"node.data_dir": "/d"})


def test_sections_are_those_of_both_programs() -> None:
    """A section that a program grows must be known to the other, or it would call it a mistake."""
    both = {found.encode_name for kind in (AgentConfig, DispatcherConfig) for found in msgspec.structs.fields(kind)}
    assert both == settings.SECTIONS


@pytest.mark.parametrize("kind", [AgentConfig, DispatcherConfig])
def test_every_real_setting_can_be_explained(kind: type[Struct]) -> None:
    """For each setting of both programs there are words for what it expects, and nobody but files sets tables."""
    environ = {
        f"FERND_{section.name}_{setting.name}".upper(): "\0"
        for section in msgspec.structs.fields(kind)
        for setting in msgspec.structs.fields(section.type)
    }
    with pytest.raises(SettingsError) as raised:
        settings.load(kind, [], environ, {})
    assert all(": expected " in problem for problem in raised.value.problems)


def test_an_unknown_flag_is_a_mistake_of_the_program() -> None:
    """A flag that sets nothing is not a user's error."""
    with pytest.raises(ValueError, match=r"node\.nothing"):
        settings.load(Config, [], {}, {"node.nothing": "1"})


def test_default_files_in_order(tmp_path: Path) -> None:
    """The directory's TOML files are read by name; a directory that is not there has none."""
    for name in ("b.toml", "a.toml", "c.txt"):
        (tmp_path / name).touch()
    assert settings.default_files(tmp_path) == [tmp_path / "a.toml", tmp_path / "b.toml"]
    assert settings.default_files(tmp_path / "missing") == []


def test_credentials_are_settings(tmp_path: Path) -> None:
    """A file named as a setting is, in the directory of systemd's LoadCredential=; the environment wins over it."""
    (tmp_path / "capacity.slots").write_text("4\n")
    (tmp_path / "node.join_token").write_text("secret\n")
    (tmp_path / "tls.key").write_text("somebody else's")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    loaded = settings.load(AgentConfig, [], environ, {})
    assert (loaded.capacity.slots, loaded.node.join_token) == (4, "secret")
    assert settings.load(AgentConfig, [], environ | {"FERND_CAPACITY_SLOTS": "5"}, {}).capacity.slots == 5

    (tmp_path / "node.joint_token").write_text("secret")
    with pytest.raises(settings.SettingsError) as caught:
        settings.load(AgentConfig, [], environ, {})
    assert caught.value.problems == [f"{tmp_path}/node.joint_token: no such setting, did you mean node.join_token?"]
