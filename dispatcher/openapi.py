"""The OpenAPI 3.1 description, made from the table of routes and from the types that decode and encode."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from agent.codes import CODES, TASKS
from dispatcher import problem
from dispatcher.browser import COOKIE, CSRF_HEADER
from dispatcher.routes.table import ACCOUNT_ID, NODE_ID, OBJECT_ID, Access, Parameter, Route
from dispatcher.store.access import Scope

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
    "id": OBJECT_ID,
    "taskId": OBJECT_ID,
    "nodeId": NODE_ID,
    "accountId": ACCOUNT_ID,
    "version": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
    "file": {"type": "string", "pattern": "^[a-z.]+$"},
}

_BROWSER = {
    "type": "apiKey",
    "in": "cookie",
    "name": COOKIE,
    "description": f"The cookie of a browser that logged in. What changes something needs {CSRF_HEADER}, too.",
}


def describe(table: Sequence[Route], version: str) -> dict[str, Any]:
    """Describe the routes of a table."""
    kinds = [kind for route in table for kind in (route.asks, *route.gives.values()) if _is_type(kind)]
    kinds = list(dict.fromkeys([*kinds, problem.Document]))
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    schema_of = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in table:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schema_of, table)
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
            }
            | {"browser": _BROWSER},
        },
    }


def _operation(route: Route, schema_of: dict[Any, dict[str, Any]], table: Sequence[Route]) -> dict[str, Any]:
    first, _, rest = (route.handler.__doc__ or "").partition(". ")
    operation: dict[str, Any] = {
        "operationId": _name(route),
        "summary": first.rstrip("."),
        "tags": [route.path.removeprefix("/v1").split("/")[1] or "dashboard"],
    }
    if route.scopes and set(route.scopes) != set(Scope):
        rest = " ".join([rest, f"Needs the scope {' or '.join(route.scopes)}."]).strip()
    if rest:
        operation["description"] = rest
    if route.access in _SCHEME:
        operation["security"] = [{_SCHEME[route.access]: []}]
    if route.access is Access.ACCOUNT:
        operation["security"].append({"browser": []})
    parameters = [*_in_path(route.path), *_given("query", route.query), *_given("header", route.headers)]
    if parameters:
        operation["parameters"] = parameters
    if route.asks is not None:
        operation["requestBody"] = {"required": not route.optional, "content": _content(route.asks, schema_of)}
    answers = {str(status): _answer(status, kind, schema_of) for status, kind in route.gives.items()}
    if route.makes:
        answers["201"]["links"] = dict(_links(route, table))
    answers |= _problems(sorted({*_BY_ACCESS[route.access], *route.problems}), schema_of)
    if route.forwards:
        answers["default"] = {
            "description": "The function's own answer, or the problem document of a task that has none: one of "
            + ", ".join(TASKS),
            "content": {"*/*": {}},
        }
    return operation | {"responses": answers}


def _name(route: Route) -> str:
    return re.sub(r"_(\w)", lambda found: found[1].upper(), route.handler.__name__)


def _links(route: Route, table: Sequence[Route]) -> Iterable[tuple[str, dict[str, Any]]]:
    """Say what can be done with what a route makes."""
    parameter = re.findall(r"\{(\w+)\}", route.makes)[-1]
    for other in table:
        if other is not route and (other.path == route.makes or other.path.startswith(f"{route.makes}/")):
            yield _name(other), {"operationId": _name(other), "parameters": {parameter: "$response.body#/id"}}


def _in_path(path: str) -> Iterable[dict[str, Any]]:
    for name in re.findall(r"\{(\w+)\}", path):
        yield {"name": name, "in": "path", "required": True, "schema": _IN_PATH[name]}


def _given(where: str, parameters: Sequence[Parameter]) -> Iterable[dict[str, Any]]:
    for name, meaning, schema, required in parameters:
        yield {"name": name, "in": where, "description": meaning, "required": required, "schema": dict(schema)}


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
