"""Text as PostgreSQL can keep it."""

from __future__ import annotations


def storable(text: str) -> str:
    """Give the text with U+FFFD in place of what PostgreSQL has no room for: NUL, and halves of surrogate pairs."""
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
