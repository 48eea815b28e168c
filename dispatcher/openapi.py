"""The OpenAPI 3.1 description, made from the table of routes and from the types that decode and encode."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from agent.codes import CODES, TASKS
from dispatcher import problem
from dispatcher.routes.table import Access, Parameter, Route

_REF = "#/components/schemas/{name}"

_MEANINGS = {101: "The session begins", 201: "Created", 204: "Done", 304: "As it was"}

_ALWAYS = ("INVALID", "INTERNAL", "UNAVAILABLE")
_BY_ACCESS = {
    Access.OPEN: (),
    Access.ACCOUNT: ("UNAUTHENTICATED", "FORBIDDEN", *_ALWAYS),
    Access.JOIN: ("UNAUTHENTICATED", *_ALWAYS),
    Access.NODE: ("UNAUTHENTICATED", "FORBIDDEN", *_ALWAYS),
}
_SCHEME = {Access.ACCOUNT: "account", Access.JOIN: "join", Access.NODE: "node"}
_IN_PATH = {
    "id": {"type": "string", "pattern": "^[0-9a-f]{24}$"},
    "taskId": {"type": "string", "pattern": "^[0-9a-f]{24}$"},
    "version": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
    "file": {"type": "string", "pattern": "^[a-z.]+$"},
    "nodeId": {"type": "string", "format": "uuid"},
    "accountId": {"type": "string", "pattern": "^[0-9a-z]{1,24}$"},
}


def describe(table: Sequence[Route], version: str) -> dict[str, Any]:
    """Describe the routes of a table."""
    kinds = [kind for route in table for kind in (route.asks, *route.gives.values()) if _is_type(kind)]
    kinds = list(dict.fromkeys([*kinds, problem.Document]))
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    schema_of = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in table:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {"title": "fernd", "version": version, "description": "Runs tasks on functions, on your own machines."},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                name: {"type": "http", "scheme": "bearer", "description": f"The token of {owner}."}
                for name, owner in (
                    ("account", "an account"),
                    ("join", "a node that joins"),
                    ("node", "a node: its credential"),
                )
            },
        },
    }


def _operation(route: Route, schema_of: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    first, _, rest = (route.handler.__doc__ or "").partition(". ")
    operation: dict[str, Any] = {
        "operationId": re.sub(r"_(\w)", lambda found: found[1].upper(), route.handler.__name__),
        "summary": first.rstrip("."),
        "tags": [route.path.removeprefix("/v1").split("/")[1] or "dashboard"],
    }
    if route.scopes:
        rest = " ".join([rest, f"Needs the scope {' or '.join(route.scopes)}."]).strip()
    if rest:
        operation["description"] = rest
    if route.access in _SCHEME:
        operation["security"] = [{_SCHEME[route.access]: []}]
    parameters = [*_in_path(route.path), *_given("query", route.query), *_given("header", route.headers)]
    if parameters:
        operation["parameters"] = parameters
    if route.asks is not None:
        operation["requestBody"] = {"required": not route.optional, "content": _content(route.asks, schema_of)}
    answers = {str(status): _answer(status, kind, schema_of) for status, kind in route.gives.items()}
    answers |= _problems(sorted({*_BY_ACCESS[route.access], *route.problems}), schema_of)
    if route.forwards:
        answers["default"] = {
            "description": "The function's own answer, or the problem document of a task that has none: one of "
            + ", ".join(TASKS),
            "content": {"*/*": {}},
        }
    return operation | {"responses": answers}


def _in_path(path: str) -> Iterable[dict[str, Any]]:
    for name in re.findall(r"\{(\w+)\}", path):
        yield {"name": name, "in": "path", "required": True, "schema": _IN_PATH[name]}


def _given(where: str, parameters: Sequence[Parameter]) -> Iterable[dict[str, Any]]:
    for name, meaning, schema in parameters:
        yield {"name": name, "in": where, "description": meaning, "schema": dict(schema)}


def _answer(status: int, kind: Any, schema_of: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": _MEANINGS.get(status, "OK")}
    if kind is not None:
        answer["content"] = _content(kind, schema_of)
    return answer


def _content(kind: Any, schema_of: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    return {"application/json": {"schema": schema_of[kind]}} if _is_type(kind) else {kind: {}}


def _problems(codes: Sequence[str], schema_of: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(CODES[code].status, []).append(code)
    return {
        str(status): {
            "description": "; ".join(f"{code}: {CODES[code].title}" for code in group),
            "content": {problem.CONTENT_TYPE: {"schema": schema_of[problem.Document]}},
        }
        for status, group in sorted(by_status.items())
    }


def _is_type(kind: Any) -> bool:
    return kind is not None and not isinstance(kind, str)
