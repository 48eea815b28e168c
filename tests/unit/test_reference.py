"""The pages that are made from the code are those of this code."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.reference import PAGES


@pytest.mark.parametrize("name", PAGES)
def test_page_is_up_to_date(name: str) -> None:
    """`make reference` would change nothing."""
    assert Path("docs", name).read_text() == PAGES[name](), "run make reference"
