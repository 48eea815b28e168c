"""Which dispatcher and token the client takes."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from agent.cli import profile
from agent.cli.profile import Endpoint

REMEMBERED = Endpoint("http://remembered:1", "remembered-token")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment whose profile knows a dispatcher."""
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    profile.write(profile.profile_path(environ), REMEMBERED)
    return environ


def test_profile_is_private(environ: dict[str, str]) -> None:
    """Nobody else can read the profile, and writing it again leaves no other file."""
    path = profile.profile_path(environ)
    path.chmod(0o644)
    profile.write(path, REMEMBERED)
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_profile_where_nothing_is_set(environ: dict[str, str]) -> None:
    """Without variables the profile is used."""
    assert profile.find(environ) == REMEMBERED


def test_variables_go_before_the_profile(environ: dict[str, str]) -> None:
    """Both variables need no profile; a token alone goes to the profile's dispatcher."""
    assert profile.find({"FERND_URL": "http://a/", "FERND_TOKEN": "t"}) == ("http://a", "t")
    assert profile.find(environ | {"FERND_TOKEN": "t"}) == (REMEMBERED.url, "t")
    assert profile.find(environ | {"FERND_URL": REMEMBERED.url + "/"}) == REMEMBERED


def test_the_profiles_token_goes_to_its_own_dispatcher_only(environ: dict[str, str]) -> None:
    """A URL from elsewhere does not get the token that is remembered for another."""
    with pytest.raises(click.UsageError, match="no token for http://elsewhere"):
        profile.find(environ | {"FERND_URL": "http://elsewhere"})


def test_nothing_known(tmp_path: Path) -> None:
    """Without variables and profile, the error says what to do."""
    with pytest.raises(click.UsageError, match="fernd login"):
        profile.find({"XDG_CONFIG_HOME": str(tmp_path)})


@pytest.mark.parametrize("content", ["", "url = 1\ntoken = 2", "nonsense", 'url = "ftp://x"\ntoken = "t"'])
def test_a_broken_profile_is_a_usage_error(environ: dict[str, str], content: str) -> None:
    """A profile that is none is told, without what is in it."""
    profile.profile_path(environ).write_text(content)
    with pytest.raises(click.UsageError):
        profile.find(environ)


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:7070", "ftp://a", "http://", "http://a b", "http://user:pass@a", "http://a?b", 'http://a"']
)
def test_urls_that_are_none(url: str) -> None:
    """What cannot be a dispatcher's address is refused before anything is sent."""
    with pytest.raises(click.UsageError):
        profile.check_url(url)


@pytest.mark.parametrize("token", ["", " ", "a b", "a\nb", 'a"b', "a\\b", "ä"])
def test_tokens_that_are_none(token: str) -> None:
    """What cannot be a token fits neither a header nor the profile."""
    with pytest.raises(click.UsageError):
        profile.check_token(token)


def test_token_of_a_file_ends_with_a_newline() -> None:
    """White space around a token is no part of it."""
    assert profile.check_token("token\n") == "token"
