"""What can be checked of the pages in docs/ without running anything. `tests/docs` runs the rest."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import click
import pytest

from agent import settings
from agent.cli.main import fernd
from agent.config import AgentConfig
from dispatcher.config import DispatcherConfig
from tests.docs.blocks import Block, all_blocks, pages, unfenced

LANGUAGES = {"console", "dockerfile", "go", "js", "json", "mermaid", "python", "sh", "text", "toml", "yaml"}

NEVER_RUN = {"mermaid", "text", "toml", "json", "yaml"}
"""Languages of blocks that are no programs."""

BLOCKS = all_blocks()


def of(*languages: str) -> pytest.MarkDecorator:
    found = [block for block in BLOCKS if block.language in languages]
    return pytest.mark.parametrize("block", found, ids=[block.place for block in found])


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_blocks_are_fenced(page: Path) -> None:
    """An indented block says no language, so nobody can check it: fence it, as in ```sh."""
    assert unfenced(page) == []


@pytest.mark.parametrize("block", BLOCKS, ids=[block.place for block in BLOCKS])
def test_each_block_is_checked_or_says_why_not(block: Block) -> None:
    """A program is run, or is a file of a function, or has the comment `<!-- shown: REASON -->` above it."""
    assert block.language in LANGUAGES
    if block.language not in NEVER_RUN:
        assert block.mark, "above the fence: <!-- run -->, <!-- file: PATH --> or <!-- shown: REASON -->"
    if block.mark in {"file", "shown"}:
        assert block.words


@of("python")
def test_python(block: Block) -> None:
    """Python compiles."""
    compile(block.text, block.place, "exec")


@of("json")
def test_json(block: Block) -> None:
    """JSON is JSON."""
    json.loads(block.text)


@of("js")
@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_javascript(block: Block, tmp_path: Path) -> None:
    """JavaScript can be read by Node."""
    file = tmp_path / "block.js"
    file.write_text(block.text)
    subprocess.run(["node", "--check", str(file)], check=True, timeout=30)


@of("go")
@pytest.mark.skipif(shutil.which("gofmt") is None, reason="go is not installed")
def test_go(block: Block) -> None:
    """Go is as gofmt writes it."""
    done = subprocess.run(["gofmt"], input=block.text, capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == block.text


@of("toml")
def test_settings(block: Block, tmp_path: Path) -> None:
    """Settings that the pages show are ones that the programs take, with values that they take."""
    file = tmp_path / "settings.toml"
    file.write_text(block.text)
    settings.load(AgentConfig, [file], {}, {})
    settings.load(DispatcherConfig, [file], {}, {})
    assert tomllib.loads(block.text)


@of("sh", "console")
def test_shell(block: Block) -> None:
    """Shell blocks are sound, and each `fernd` in them is a command that there is, with options that it has."""
    script = block.text
    if block.language == "console":
        script = "".join(f"{line[2:]}\n" for line in script.splitlines() if line.startswith("$ "))
        assert script, "a console block has commands after `$ `, and what they print"
    subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=30)
    for line in script.splitlines():
        for words in _commands(line):
            _parse(words)


def _commands(line: str) -> list[list[str]]:
    """Find the calls of `fernd` in a line: as words, without what the shell takes for itself."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    found: list[list[str]] = []
    current: list[str] | None = None
    for word in lexer:
        if set(word) <= set("();<>|&"):
            current = None
        elif word.rpartition("/")[2] == "fernd" and current is None:
            current = []
            found.append(current)
        elif current is not None:
            current.append(word)
        elif "fernd " in word and word.startswith("$("):
            found += _commands(word[2:].rstrip(")"))
    return found


def _parse(words: list[str]) -> None:
    """Let click read a command line as far as can be without running it.

    Raises:
        click.UsageError: It would be refused.
    """
    command: click.Command = fernd
    context = click.Context(command, info_name="fernd")
    rest: list[str] = words
    while isinstance(command, click.Group):
        at = next((index for index, word in enumerate(rest) if not word.startswith("-")), None)
        if at is None:
            command.make_context("fernd", list(rest), parent=context.parent, resilient_parsing=True)
            return
        name, found, rest = command.resolve_command(context, rest[at:])
        if found is None or name is None:
            raise click.UsageError(f"no such command: {words}")
        command, context = found, click.Context(found, info_name=name, parent=context)
    command.make_parser(context).parse_args(list(rest))
