"""The description of the API: whole, consistent, and the same as what is served."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dispatcher.app import build
from dispatcher.config import DispatcherConfig
from dispatcher.openapi import describe
from dispatcher.routes.table import TABLE, Access
from dispatcher.store.sqlite import SqliteStore

METHODS = {"get", "put", "post", "delete", "patch"}


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(describe(TABLE, "1.2.3")))
    return found


def operations(description: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in description["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


async def test_every_route_that_is_served_is_described(tmp_path: Path) -> None:
    """The application's router and the description name the same methods of the same paths."""
    app = build(DispatcherConfig(), SqliteStore(tmp_path / "never-opened.sqlite"))
    served = {
        (str(route.resource.canonical), route.method.lower())
        for route in app.router.routes()
        if route.resource is not None and route.method not in {"HEAD", "*"}
    }
    described = {(path, method) for path, method, _ in operations(describe(TABLE, ""))}
    assert served == described
    assert len(TABLE) == len(served)


def test_head_of_the_description(description: dict[str, Any]) -> None:
    """It says what it is: OpenAPI 3.1 of this version."""
    assert description["openapi"].startswith("3.1.")
    assert description["info"]["title"] == "fernd"
    assert description["info"]["version"] == "1.2.3"


def test_references_resolve_and_components_are_used(description: dict[str, Any]) -> None:
    """Every $ref leads to something, and nothing is described that nobody refers to."""
    used = set()
    for reference in _references(description):
        found: Any = description
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
        assert isinstance(found, dict)
        used.add(reference)
    assert used == {f"#/components/schemas/{name}" for name in description["components"]["schemas"]}


def test_operations_are_whole(description: dict[str, Any]) -> None:
    """Each has an id of its own, a summary, described answers, and exactly the parameters of its path."""
    ids = []
    for path, method, operation in operations(description):
        assert method in METHODS
        ids.append(operation["operationId"])
        assert operation["summary"]
        assert operation["responses"]
        for status, response in operation["responses"].items():
            assert re.fullmatch(r"[1-5][0-9]{2}|default", status)
            assert response["description"]
        parameters = operation.get("parameters", [])
        assert len({(given["in"], given["name"]) for given in parameters}) == len(parameters)
        assert all("schema" in given for given in parameters)
        in_path = [given for given in parameters if given["in"] == "path"]
        assert sorted(given["name"] for given in in_path) == sorted(re.findall(r"\{(\w+)\}", path))
        assert all(given["required"] for given in in_path)
        if "requestBody" in operation:
            assert method in {"post", "put", "patch"}
            assert operation["requestBody"]["content"]
    assert len(set(ids)) == len(ids)


def test_paths_differ_in_more_than_parameter_names(description: dict[str, Any]) -> None:
    """OpenAPI takes paths that differ only in the names of their parameters for the same."""
    shapes = [re.sub(r"\{\w+\}", "{}", path) for path in description["paths"]]
    assert len(set(shapes)) == len(shapes)


def test_security_is_that_of_the_table(description: dict[str, Any]) -> None:
    """What needs a token says which, and may answer 401; what is open says nothing."""
    schemes = description["components"]["securitySchemes"]
    for route in TABLE:
        operation = description["paths"][route.path][route.method.lower()]
        if route.access is Access.OPEN:
            assert "security" not in operation
        else:
            ((scheme, scopes),) = operation["security"][0].items()
            assert (scheme in schemes, scopes) == (True, [])
            assert "401" in operation["responses"]


def test_bodies_are_described_by_the_types_that_decode_them(description: dict[str, Any]) -> None:
    """Bounds and names are those of the Structs."""
    schemas = description["components"]["schemas"]
    new = schemas["NewFunction"]
    assert set(new["required"]) == {"name", "type"}
    assert new["additionalProperties"] is False
    assert new["properties"]["description"]["maxLength"] == 80
    timeout = schemas["CapabilitiesChange"]["properties"]["timeout"]
    assert (timeout["minimum"], timeout["maximum"]) == (1, 900)
    assert "functionId" in schemas["TaskView"]["required"]


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)
