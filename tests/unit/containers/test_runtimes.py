"""Which OCI runtime a function is run by."""

from __future__ import annotations

import pytest

from agent.config import AgentConfig
from agent.containers.runtimes import Rule, Runtimes, read_rules
from agent.settings import SettingsError, load

RULES = read_rules(["function 65f0* = kata", "image docker.io/library/* = runc", "image * = runsc"])


def test_the_first_rule_that_holds_decides() -> None:
    """Rules are looked at in their order, each by what it is about; where none holds it is the usual runtime."""
    runtimes = Runtimes("usual", RULES)
    assert runtimes.of("docker.io/library/python:3", "65f0aa") == "kata"
    assert runtimes.of("docker.io/library/python:3", "65f1aa") == "runc"
    assert runtimes.of("65f0", "65f1aa") == "runsc"
    assert Runtimes("usual", RULES[:2]).of("another", "65f1aa") == "usual"
    assert Runtimes().of("another", "65f1aa") == ""
    assert runtimes.in_use() == ["usual", "kata", "runc", "runsc"]
    assert Runtimes("runc", RULES).in_use() == ["runc", "kata", "runsc"]


def test_what_an_engine_lacks_is_named_with_its_setting() -> None:
    """The key that names an unknown runtime is said; the engine's default needs no name."""
    assert Runtimes("", RULES).lacking({"kata", "runc", "runsc"}) == ""
    said = "containers.runtimes: the engine has no OCI runtime 'kata'; it has runc, runsc"
    assert Runtimes("", RULES).lacking({"runsc", "runc"}) == said
    assert Runtimes("runsc").lacking({"runc"}).startswith("containers.runtime: the engine has no OCI runtime 'runsc'")


def test_from_the_environment() -> None:
    """Rules are written in a variable as in a file, separated by commas."""
    given = {"FERND_CONTAINERS_RUNTIMES": "image a/* = runsc, function b = runc"}
    config = load(AgentConfig, [], given, {}).containers
    assert config.runtimes_read == Runtimes("", [Rule("image", "a/*", "runsc"), Rule("function", "b", "runc")])


@pytest.mark.parametrize("rule", ["", "runsc", "image a/*", "image a = ", "images a = runsc", "image a b = runsc"])
def test_what_is_no_rule(rule: str) -> None:
    """What is not written as a rule is refused with its number and with what was expected."""
    with pytest.raises(SettingsError, match=r"runtimes: rule 2: expected such as image .* = runc, or"):
        load(AgentConfig, [], {}, {"containers.runtimes": f"image a = runc,{rule or '='}"})
