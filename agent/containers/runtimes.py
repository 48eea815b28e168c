"""PURE. Which of the engine's OCI runtimes a container is run by, as the operator says."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Literal

from msgspec import Struct

from agent.containers.spec import matches

_RULE = re.compile(r"(image|function) ([^\s=]+) = ([^\s=]{1,100})")


class Rule(Struct, frozen=True):
    """The runtime of some functions.

    Attributes:
        by: What of a function is looked at: its image, or its id.
        pattern: ``*`` stands for any text.
    """

    by: Literal["image", "function"]
    pattern: str
    runtime: str


class Runtimes(Struct, frozen=True):
    """The runtimes of a node. The first rule that holds for a function decides.

    Attributes:
        usual: Where no rule holds; empty: the engine's default.
    """

    usual: str = ""
    rules: Sequence[Rule] = ()

    def of(self, image: str, function: str) -> str:
        """Name the runtime of a function; empty: the engine's default."""
        for rule in self.rules:
            if matches(image if rule.by == "image" else function, rule.pattern):
                return rule.runtime
        return self.usual

    def in_use(self) -> list[str]:
        """Name each runtime that a function may get, the usual one first."""
        return list(dict.fromkeys((self.usual, *(rule.runtime for rule in self.rules))))

    def lacking(self, known: Collection[str]) -> str:
        """Say which setting names a runtime that an engine does not know; empty: none does."""
        for key, names in (("runtime", [self.usual]), ("runtimes", [rule.runtime for rule in self.rules])):
            for name in names:
                if name and name not in known:
                    has = ", ".join(sorted(known))
                    return f"containers.{key}: the engine has no OCI runtime {name!r}; it has {has}"
        return ""


def read_rules(texts: Iterable[str]) -> list[Rule]:
    """Read rules.

    Raises:
        ValueError: One is not written as a rule is.
    """
    rules = []
    for number, text in enumerate(texts, 1):
        found = _RULE.fullmatch(text)
        if found is None:
            form = "image docker.io/library/* = runc, or function 65f0c0ffee0123456789abcd = runsc"
            raise ValueError(f"runtimes: rule {number}: expected such as {form}")
        rules.append(Rule("image" if found[1] == "image" else "function", found[2], found[3]))
    return rules
