"""Functions: what can be run, how, and what it asks of a node. Every change makes a new revision."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType

from agent import protocol
from agent.protocol import Mode, Network, Revision
from dispatcher import audit
from dispatcher.ids import is_object_id
from dispatcher.problem import Problem, invalid, not_found
from dispatcher.routes.answers import epoch_seconds, json, plain
from dispatcher.routes.keys import CORE, IDS, PRINCIPAL, now_ms
from dispatcher.routes.paging import cursor_of, limit_of, page
from dispatcher.routes.reading import document, parameter
from dispatcher.routes.tasks import Created
from dispatcher.store.access import AccountLimits, Scope
from dispatcher.store.errors import NameTaken
from dispatcher.store.records import Function

LEAST_MEMORY = 6
"""MiB; container engines refuse to start with less."""

LEAST_CPU = 0.01
"""CPUs; container engines refuse to start with less."""

ENV_BYTES = 64 * 1024
"""Bytes of all names and values of the environment together."""

TIMEOUT = 10
"""Seconds that a function has which asked for nothing else."""

CHANGE_TRIES = 5
"""So often a change is tried again when another one came between."""

_IMAGE = (
    r"(?:(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[0-9a-fA-F:]+\])"
    r"(?::[0-9]+)?/)?"
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
    r"(?:@[a-z][a-z0-9]*(?:[+._-][a-z][a-z0-9]*)*:[0-9a-fA-F]{32,})?"
)
"""The grammar of image references, as container engines have it."""


def _none_or(least: float) -> dict[str, Any]:
    return {"anyOf": [{"const": 0}, {"minimum": least}]}


# A `$` alone would let a line break pass behind it.
Name = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}(?!\n)$", description="1 to 64 ASCII letters, digits, - and _")
]
Description = Annotated[str, Meta(max_length=80)]
Lang = Literal["GO", "PY", "JS", "CS", "RB", "RS", "ANY"]
Image = Annotated[
    str,
    Meta(
        max_length=512,
        description="An image reference, by tag or digest. Empty: none yet.",
        extra_json_schema={"pattern": f"^(?:{_IMAGE})?$"},
    ),
]
EnvName = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,127}(?!\n)$")]
EnvValue = Annotated[str, Meta(max_length=32 * 1024, pattern=r"^[^\x00]*$")]
Env = Annotated[dict[EnvName, EnvValue], Meta(max_length=128)]
Retries = Annotated[int, Meta(ge=0, le=10)]
Concurrency = Annotated[
    int, Meta(ge=1, le=1000, description="Requests that a warm container of an http function takes at a time")
]
Warm = Annotated[
    int, Meta(ge=0, le=100, description="Containers of an http function that each node with its image keeps ready")
]
ReadyPath = Annotated[
    str,
    Meta(
        max_length=1024,
        pattern=r"^(/[!-~]*)?(?!\n)$",
        description="a path of visible ASCII characters that begins with /, or nothing",
    ),
]
Grace = Annotated[
    int, Meta(ge=0, le=300, description="Seconds between the signal to a function that is to end and its kill")
]
Pull = Annotated[
    protocol.Pull,
    Meta(description="When a node fetches the image: if it is missing, or for each container that it starts"),
]
Timeout = Annotated[int, Meta(ge=1, le=900, description="Seconds")]
CpuCount = Annotated[
    float, Meta(ge=0, le=64, description="CPUs; 0, or at least 0.01", extra_json_schema=_none_or(LEAST_CPU))
]
MemSize = Annotated[
    int, Meta(ge=0, le=16 * 1024 * 1024, description="MiB; 0, or at least 6", extra_json_schema=_none_or(LEAST_MEMORY))
]
NetworkLatency = Annotated[float, Meta(ge=0, le=60_000, description="Milliseconds")]


class NewFunction(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A function to create."""

    name: Name
    type: Literal["DOCKER"]
    description: Description = ""
    lang: Lang = "ANY"
    image: Image = ""
    mode: Mode = "http"
    env: Env = {}
    network: Network = "none"
    reuse: bool = True
    concurrency: Concurrency = 1
    warm: Warm = 0
    retries: Retries = 2
    ready_path: ReadyPath = ""
    grace: Grace = 5
    pull: Pull = "missing"


class FunctionChange(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What shall be different about a function; the rest stays."""

    name: Name | UnsetType = UNSET
    type: Literal["DOCKER"] | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    lang: Lang | UnsetType = UNSET
    image: Image | UnsetType = UNSET
    mode: Mode | UnsetType = UNSET
    env: Env | UnsetType = UNSET
    network: Network | UnsetType = UNSET
    reuse: bool | UnsetType = UNSET
    concurrency: Concurrency | UnsetType = UNSET
    warm: Warm | UnsetType = UNSET
    retries: Retries | UnsetType = UNSET
    ready_path: ReadyPath | UnsetType = UNSET
    grace: Grace | UnsetType = UNSET
    pull: Pull | UnsetType = UNSET


class CapabilitiesChange(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What a function shall ask of a node from now on; the rest stays. 0 is no requirement."""

    timeout: Timeout | UnsetType = UNSET
    cpu_count: CpuCount | UnsetType = UNSET
    mem_size: MemSize | UnsetType = UNSET
    network_latency: NetworkLatency | UnsetType = UNSET
    privileged: bool | UnsetType = UNSET


class FunctionCapabilities(Struct, frozen=True, rename="camel"):
    """What a function asks of a node."""

    timeout: int
    cpu_count: int | float
    mem_size: int
    network_latency: int | float
    privileged: bool


class FunctionView(Struct, frozen=True, rename="camel"):
    """A function with its newest revision.

    Values of `env` are null for a token that has not the scope `functions`: it can call the function, no more.
    """

    id: str
    name: str
    description: str
    lang: str
    type: str
    image: str
    mode: Mode
    env: dict[str, str | None]
    network: Network
    reuse: bool
    concurrency: int
    warm: int
    retries: int
    ready_path: str
    grace: int
    pull: protocol.Pull
    capabilities: FunctionCapabilities
    revision: int
    created: str


async def create_function(request: web.Request, account: str) -> web.StreamResponse:
    """Create a function."""
    asked = await document(request, NewFunction)
    function_id = request.app[IDS].new()
    revision = Revision(
        function=function_id,
        number=1,
        image=asked.image,
        mode=asked.mode,
        env=asked.env,
        network=asked.network,
        reuse=asked.reuse,
        concurrency=asked.concurrency,
        warm=asked.warm,
        ready_path=asked.ready_path,
        retries=asked.retries,
        timeout=min(TIMEOUT, _limits(request, account).timeout or TIMEOUT),
        grace=asked.grace,
        pull=asked.pull,
    )
    _check(revision)
    function = Function(
        function_id,
        account,
        asked.name,
        asked.description,
        asked.lang,
        asked.type,
        now_ms(request.app),
        revision,
    )
    line = audit.line(request, "function.create", function_id, asked.name)
    try:
        await request.app[CORE].store.add_function(function, line)
    except NameTaken:
        raise _name_taken(asked.name) from None
    audit.committed(line)
    _tell_nodes(request, revision)
    return json(Created(function_id), 201, f"/v1/function/{function_id}")


async def list_functions(request: web.Request, account: str) -> web.StreamResponse:
    """List functions, newest first; with `name`, the one of that name."""
    limit = limit_of(request)
    cursor = cursor_of(request, is_object_id)
    name = parameter(request, "name")
    store = request.app[CORE].store
    if name is not None:
        named = await store.function_named(account, name)
        rows = [] if named is None else [named]
    else:
        rows = await store.functions(account, limit + 1, cursor)
    with_env = _may_see_env(request)
    return page(request, rows, lambda row: view(row, with_env=with_env), lambda row: row.id)


async def show_function(request: web.Request, account: str) -> web.StreamResponse:
    """Show a function."""
    return json(view(await function_of(request, account), with_env=_may_see_env(request)))


async def change_function(request: web.Request, account: str) -> web.StreamResponse:
    """Change a function. Tasks that exist keep the revision that they were created with."""
    return await _change(request, account, await document(request, FunctionChange))


async def set_capabilities(request: web.Request, account: str) -> web.StreamResponse:
    """Set what a function asks of a node. Tasks that exist keep what they asked for."""
    asked = await document(request, CapabilitiesChange)
    _check_limits(_limits(request, account), asked)
    return await _change(request, account, asked)


async def remove_function(request: web.Request, account: str) -> web.StreamResponse:
    """Remove a function. Its tasks stay, and those under way go on."""
    function = await function_of(request, account)
    line = audit.line(request, "function.remove", function.id, function.name)
    if not await request.app[CORE].store.remove_function(account, function.id, line):
        raise not_found("function")
    audit.committed(line)
    _tell_nodes(request, function.revision)
    return web.Response(status=204)


def view(function: Function, *, with_env: bool = True) -> FunctionView:
    """Show a function as answers do.

    Args:
        with_env: Show the values of the environment, too.
    """
    revision = function.revision
    return FunctionView(
        id=function.id,
        name=function.name,
        description=function.description,
        lang=function.lang,
        type=function.type,
        image=revision.image,
        mode=revision.mode,
        env={name: value if with_env else None for name, value in revision.env.items()},
        network=revision.network,
        reuse=revision.reuse,
        concurrency=revision.concurrency,
        warm=revision.warm,
        retries=revision.retries,
        ready_path=revision.ready_path,
        grace=revision.grace,
        pull=revision.pull,
        capabilities=FunctionCapabilities(
            revision.timeout,
            plain(revision.cpu_count),
            revision.mem_size,
            plain(revision.network_latency),
            revision.privileged,
        ),
        revision=revision.number,
        created=epoch_seconds(function.created_ms),
    )


async def _change(
    request: web.Request, account: str, change: FunctionChange | CapabilitiesChange
) -> web.StreamResponse:
    """Make the next revision. Another change that comes between is not undone: this one starts again from it."""
    for _ in range(CHANGE_TRIES):
        before = await function_of(request, account)
        after = _changed(before, change)
        _check(after.revision)
        if after == before:
            return web.Response(status=204)
        revision = msgspec.structs.replace(after.revision, number=before.revision.number + 1)
        line = audit.line(request, "function.change", before.id, f"{before.name}: {_fields_changed(before, after)}")
        after = msgspec.structs.replace(after, revision=revision)
        try:
            if await request.app[CORE].store.change_function(after, before.revision.number, line):
                audit.committed(line)
                _tell_nodes(request, before.revision, revision)
                return web.Response(status=204)
        except NameTaken:
            raise _name_taken(after.name) from None
    raise Problem("CONFLICT", "the function is being changed by others at the same time")


def _limits(request: web.Request, account: str) -> AccountLimits:
    return request.app[CORE].quotas.of(account)


def _check_limits(limits: AccountLimits, asked: CapabilitiesChange) -> None:
    """Return if an account may ask for this.

    Raises:
        Problem: It is beyond a limit of the account. What its functions asked for before stays.
    """
    for field, wanted, most in (
        ("timeout", asked.timeout, limits.timeout),
        ("cpuCount", asked.cpu_count, limits.cpu_count),
        ("memSize", asked.mem_size, limits.mem_size),
    ):
        if wanted is not UNSET and most is not None and wanted > most:
            raise invalid(field, f"{field}: the functions of this account may ask for {plain(most)} at most")
    if asked.privileged is True and limits.privileged is False:
        raise invalid("privileged", "privileged: the functions of this account may not ask for it")


def _tell_nodes(request: web.Request, *revisions: Revision) -> None:
    """Let nodes hear of revisions that came or went, where they keep containers of them ready."""
    if any(revision.warm for revision in revisions):
        request.app[CORE].prewarming.changed()


def _changed(function: Function, change: FunctionChange | CapabilitiesChange) -> Function:
    given: dict[str, Any] = {
        name: value for name in change.__struct_fields__ if (value := getattr(change, name)) is not UNSET
    }
    own = {name: given.pop(name) for name in ("name", "type", "description", "lang") if name in given}
    return msgspec.structs.replace(function, **own, revision=msgspec.structs.replace(function.revision, **given))


def _may_see_env(request: web.Request) -> bool:
    return Scope.FUNCTIONS in request[PRINCIPAL].token.scopes


def _fields_changed(before: Function, after: Function) -> str:
    """Name what is different, and not what it is: an environment may hold secrets."""
    one, other = msgspec.to_builtins(view(before)), msgspec.to_builtins(view(after))
    one |= one.pop("capabilities")
    other |= other.pop("capabilities")
    return ", ".join(name for name in one if one[name] != other[name])


def _check(revision: Revision) -> None:
    """Check what the types cannot say.

    Raises:
        Problem: A field is wrong.
    """
    if revision.image and not re.fullmatch(_IMAGE, revision.image):
        raise invalid("image", "image: expected an image reference such as registry.example/owner/name:tag")
    if 0 < revision.cpu_count < LEAST_CPU:
        raise invalid("cpuCount", f"cpuCount: expected 0, or at least {LEAST_CPU} CPUs")
    if 0 < revision.mem_size < LEAST_MEMORY:
        raise invalid("memSize", f"memSize: expected 0, or at least {LEAST_MEMORY} MiB")
    if sum(len(name) + len(value.encode()) for name, value in revision.env.items()) > ENV_BYTES:
        raise invalid("env", f"env: expected names and values of at most {ENV_BYTES} bytes together")


def _name_taken(name: str) -> Problem:
    return Problem("CONFLICT", f"there is a function named {name} already", field="name")


async def function_of(request: web.Request, account: str) -> Function:
    """Find the function that the path names.

    Raises:
        Problem: The account has none of this id.
    """
    function_id = request.match_info["id"]
    function = await request.app[CORE].store.function(account, function_id) if is_object_id(function_id) else None
    if function is None:
        raise not_found("function")
    return function
