"""The page of the HTTP API, made from its OpenAPI description: see `docs.reference`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from agent.codes import CODES
from dispatcher.openapi import describe
from dispatcher.routes.table import TABLE

_INTRODUCTION = """\
What stands here is also at `/v1/openapi.json`, for programs. Requests carry `Authorization: Bearer TOKEN`. Bodies are
JSON in UTF-8 where nothing else is said; times are strings of epoch seconds; every key of an answer is always there,
with null where there is nothing. A list comes in pages: where there is another one, `Link: <…>; rel="next"` leads to
it. Errors are [problem documents](errors.md)."""

_ALWAYS = ("INVALID", "UNAUTHENTICATED", "FORBIDDEN", "INTERNAL", "UNAVAILABLE")
"""Codes that every operation may answer, and that are therefore not repeated for each."""

_TITLES = {
    "task": "Tasks",
    "function": "Functions",
    "node": "Nodes",
    "token": "Tokens",
    "account": "Accounts",
    "audit": "Audit",
    "session": "Browsers that log in",
    "summary": "An account at a glance",
    "events": "An account as it changes",
}
_OTHER = "The dispatcher itself"

_PATTERN_SHOWN = 48
"""Characters of a pattern that a reader may still like to read."""


def page() -> Iterator[str]:
    """Write the page, paragraph by paragraph."""
    description = msgspec.to_builtins(describe(TABLE, ""))
    yield "# The HTTP API"
    yield _INTRODUCTION
    yield f"Any operation may answer {', '.join(f'`{code}`' for code in _ALWAYS)}."
    sections: dict[str, list[str]] = {title: [] for title in (*_TITLES.values(), _OTHER)}
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            title = _TITLES.get(operation["tags"][0], _OTHER)
            sections[title] += _operation(method.upper(), path, operation)
    for title, paragraphs in sections.items():
        yield f"## {title}"
        yield from paragraphs
    yield "## Types"
    for name, schema in sorted(description["components"]["schemas"].items()):
        yield from _schema(name, schema)


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"### {method} {path}"
    said = f"{operation['summary']}. {operation.get('description', '')}"
    yield " ".join(f"{said} {_access(operation)}".split())
    parameters = [given for given in operation.get("parameters", ()) if given["in"] != "path"]
    if parameters:
        yield "\n".join(_parameters(parameters))
    lines = [f"- Takes {_body(operation['requestBody'])}."] if "requestBody" in operation else []
    codes = []
    for status, answer in operation["responses"].items():
        if "application/problem+json" in answer.get("content", {}):
            codes += [part.partition(":")[0] for part in answer["description"].split("; ")]
        elif status == "default":
            lines.append("- Answers what the function answered, or the problem document of a task without an answer.")
        else:
            lines.append(f"- Answers {status}{_content(answer)}.")
    if own := [code for code in CODES if code in codes and code not in _ALWAYS]:
        lines.append(f"- Errors: {', '.join(f'`{code}`' for code in own)}.")
    yield "\n".join(lines)


def _access(operation: Mapping[str, Any]) -> str:
    schemes = [name for requirement in operation.get("security", ()) for name in requirement]
    if not schemes:
        return "Needs no token."
    return {"join": "Needs a join token.", "node": "Needs the credential of the node."}.get(schemes[0], "")


def _parameters(parameters: list[Mapping[str, Any]]) -> Iterator[str]:
    yield "| parameter | in | meaning | takes |"
    yield "| --- | --- | --- | --- |"
    for given in parameters:
        default = given["schema"].get("default")
        needed = " Required." if given["required"] else "" if default is None else f" {default}, unless it is given."
        yield f"| `{given['name']}` | {given['in']} | {given['description']}{needed} | {_type(given['schema'])} |"


def _body(request: Mapping[str, Any]) -> str:
    kind, content = next(iter(request["content"].items()))
    words = _type(content["schema"]) if "schema" in content else "any body" if kind == "*/*" else f"`{kind}`"
    return words if request["required"] else f"{words}, or no body"


def _content(answer: Mapping[str, Any]) -> str:
    for kind, content in answer.get("content", {}).items():
        return f" with {_type(content['schema']) if 'schema' in content else f'`{kind}`'}"
    return ""


def _schema(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield f"### {name}"
    if words := schema.get("description"):
        yield " ".join(words.partition("Attributes:")[0].split())
    if schema.get("properties"):
        yield "\n".join(_fields(schema))


def _fields(schema: Mapping[str, Any]) -> Iterator[str]:
    yield "| field | type | default |"
    yield "| --- | --- | --- |"
    needed = schema.get("required", ())
    for name, field in schema["properties"].items():
        default = "required" if name in needed else f"`{json.dumps(field['default'])}`" if "default" in field else ""
        yield f"| `{name}` | {_type(field)} | {default} |"


def _type(schema: Mapping[str, Any]) -> str:
    """Say in words what a schema takes."""
    match schema:
        case {"$ref": reference}:
            name = reference.rpartition("/")[2]
            return f"[{name}](#{name.lower()})"
        case {"anyOf": choices, **rest} if "type" not in rest:
            return " or ".join(_type(choice) for choice in choices)
        case {"enum": values}:
            return ", ".join(f"`{value}`" for value in values)
        case {"type": "array", "items": items}:
            return f"a list of {_type(items)}"
        case {"type": "object", "additionalProperties": dict() as values}:
            return f"a map to {_type(values)}"
    bounds = [schema["description"].rstrip(".")] if "type" in schema and "description" in schema else []
    if "minimum" in schema or "maximum" in schema:
        bounds.append(f"{schema.get('minimum', '…')} to {schema.get('maximum', '…')}")
    if "maxLength" in schema:
        bounds.append(f"at most {schema['maxLength']} characters")
    if len(schema.get("pattern", "")) in range(1, _PATTERN_SHOWN):
        bounds.append(f"`{schema['pattern']}`".replace("|", "\\|"))
    return "; ".join([str(schema.get("type", "anything")), *bounds])
