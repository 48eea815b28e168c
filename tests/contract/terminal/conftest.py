"""A real dispatcher, with a node that the test plays, for commands behind a pseudo-terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.http_api.api import Api
from tests.contract.http_api.conftest import api, node, serve

__all__ = ["api", "environ", "node", "serve"]


@pytest.fixture
def environ(api: Api, tmp_path: Path) -> dict[str, str]:
    """What a command needs to find the dispatcher."""
    return {"FERND_URL": api.url, "FERND_TOKEN": api.token, "XDG_CONFIG_HOME": str(tmp_path)}
