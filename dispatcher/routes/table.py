"""Every route, in the order in which a path is matched, with what it takes and gives.

`dispatcher.app` serves from this table and `dispatcher.openapi` describes it, so that neither can
know a route that the other does not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from aiohttp import web

from agent.protocol import LEASE_HEADER, OFFSET_HEADER, SHA256_HEADER, SIZE_HEADER
from dispatcher.routes import (
    access,
    bodies,
    browsers,
    events,
    functions,
    health,
    live,
    metrics,
    nodes,
    overview,
    pages,
    results,
    tasks,
)
from dispatcher.store.access import Scope


class Access(Enum):
    """Who may come in. All but `OPEN` is settled before the handler runs."""

    OPEN = "anybody; the handler gets the request"
    ACCOUNT = "an account's token with a scope of the route's; the handler gets the account's id, too"
    JOIN = "a join token; the handler gets the id of its account, too"
    NODE = "the credential of the node in the path; the handler gets the node, too"


class Parameter(NamedTuple):
    """A query parameter or a header that a route looks at."""

    name: str
    meaning: str
    schema: Mapping[str, object] = {"type": "string"}
    required: bool = False


@dataclass(frozen=True)
class Route:
    """One method of one path.

    Attributes:
        scopes: One of them must be the token's, where `access` is `ACCOUNT`.
        asks: Type of the JSON body, or a content type of any body, or None.
        optional: The body may be left out.
        gives: By status: type of the JSON body, or a content type, or None for no body.
        problems: Codes beside those that every route of its access may give.
        makes: The path at which what it creates is found, by the `id` of the answer.
        forwards: Answers may be a function's own: any status, any headers, any body.
    """

    method: str
    path: str
    handler: Callable[..., Awaitable[web.StreamResponse]]
    access: Access
    scopes: tuple[Scope, ...] = ()
    asks: Any = None
    optional: bool = False
    gives: Mapping[int, Any] = field(default_factory=dict)
    query: tuple[Parameter, ...] = ()
    headers: tuple[Parameter, ...] = ()
    problems: tuple[str, ...] = ()
    makes: str = ""
    forwards: bool = False

    def __post_init__(self) -> None:
        if bool(self.scopes) != (self.access is Access.ACCOUNT):
            raise ValueError(f"{self.method} {self.path}: scopes go with the access of an account")


OBJECT_ID = {"type": "string", "pattern": "^[0-9a-f]{24}$"}
NODE_ID = {"type": "string", "format": "uuid", "pattern": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"}
ACCOUNT_ID = {"type": "string", "pattern": "^[0-9a-z]{1,24}$"}
BYTE_COUNT = {"type": "string", "pattern": "^[0-9]{1,15}$"}

LIMIT = Parameter("limit", "Entries of a page.", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100})
SHORT_LIMIT = Parameter("limit", "Entries of a page.", {**LIMIT.schema, "maximum": 100})
CURSOR = "Where the page starts; from the Link header of the one before."
PAGE = (LIMIT, Parameter("cursor", CURSOR, OBJECT_ID))
SHORT_PAGE = (SHORT_LIMIT, PAGE[1])
PAGE_OF_NODES = (LIMIT, Parameter("cursor", CURSOR, NODE_ID))
PAGE_OF_ACCOUNTS = (LIMIT, Parameter("cursor", CURSOR, ACCOUNT_ID))
WATCHED = Parameter("task", "Tell what happens to this task, too.", OBJECT_ID)
LAST_EVENT = Parameter("Last-Event-ID", "Go on after this event.")
PREFER = Parameter("Prefer", "`wait=N`: wait up to N seconds, at most 60, for the result.")
IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key",
    "Asking again with the same key gives the first task.",
    {"type": "string", "pattern": "^[!-~]{1,255}$"},
)
LEASE = Parameter(
    LEASE_HEADER,
    "`<attempt>:<token in hex>`",
    {"type": "string", "pattern": "^[0-9]{1,9}:[0-9a-f]{32}$"},
    required=True,
)
RANGE = Parameter("Range", "`bytes=n-`: go on from the byte n.")
OFFSET = Parameter(OFFSET_HEADER, "Bytes that are kept so far; the body goes on from there.", BYTE_COUNT)
SIZE = Parameter(SIZE_HEADER, "Bytes of the whole result.", BYTE_COUNT, required=True)
SHA256 = Parameter(
    SHA256_HEADER, "SHA-256 of the whole result.", {"type": "string", "pattern": "^[0-9a-f]{64}$"}, required=True
)
FUNCTION = Parameter("functionId", "Only tasks of this function.", OBJECT_ID)
NAME = Parameter("name", "Only the function of this name.")
OF_ACCOUNT = Parameter("account", "Only what belongs to this account.", ACCOUNT_ID)
STATE = Parameter("state", "Only tasks in this state.", {"enum": list(tasks.FILTERS)})
NODE_STATE = Parameter("state", "Only nodes in this state.", {"enum": list(nodes.NODE_STATES)})
SEARCH = Parameter("search", "Only nodes with this in their id or description.")

ANYTHING = "*/*"
BYTES = "application/octet-stream"

UPLOAD = ("TOO_LARGE", "TOO_SLOW")
"""What can be wrong with the way in which a body comes."""

ACCOUNT, JOIN, NODE, OPEN = Access.ACCOUNT, Access.JOIN, Access.NODE, Access.OPEN

TASKS, FUNCTIONS, NODES, ADMIN = ((scope,) for scope in Scope)
CALLERS = TASKS + FUNCTIONS
"""Whoever runs functions must be able to find them."""

ANY_SCOPE = tuple(Scope)

TABLE = (
    Route("GET", "/v1/task/list", tasks.list_tasks, ACCOUNT, scopes=TASKS,
          query=(*PAGE, FUNCTION, STATE), gives={200: list[tasks.TaskEntry]}),
    Route("GET", "/v1/task/overview", overview.list_task_rows, ACCOUNT, scopes=TASKS,
          query=(*PAGE, FUNCTION, STATE), gives={200: list[overview.TaskRow]}),
    Route("POST", "/v1/task/{id}", tasks.create_task, ACCOUNT, scopes=TASKS,
          asks=ANYTHING, optional=True, gives={201: tasks.Created}, forwards=True,
          headers=(PREFER, IDEMPOTENCY_KEY), makes="/v1/task/{id}",
          problems=("NOT_FOUND", "NO_RUNNER", "CONFLICT", *UPLOAD, "QUEUE_FULL")),
    Route("GET", "/v1/task/{id}", tasks.show_task, ACCOUNT, scopes=TASKS,
          gives={200: tasks.TaskView}, problems=("NOT_FOUND",)),
    Route("DELETE", "/v1/task/{id}", tasks.cancel_task, ACCOUNT, scopes=TASKS,
          gives={204: None}, problems=("NOT_FOUND", "CONFLICT")),
    Route("GET", "/v1/task/{id}/result", results.show_result, ACCOUNT, scopes=TASKS,
          headers=(PREFER,), forwards=True, problems=("NOT_FOUND", "NOT_FINISHED")),
    Route("GET", "/v1/task/{id}/logs", tasks.show_logs, ACCOUNT, scopes=TASKS,
          gives={200: "text/plain"}, problems=("NOT_FOUND", "NOT_FINISHED")),
    Route("GET", "/v1/task/{id}/events", events.watch_task, ACCOUNT, scopes=TASKS,
          headers=(LAST_EVENT,),
          gives={200: "text/event-stream"}, problems=("NOT_FOUND",)),

    Route("GET", "/v1/function/list", functions.list_functions, ACCOUNT, scopes=CALLERS,
          query=(*PAGE, NAME), gives={200: list[functions.FunctionView]}),
    Route("GET", "/v1/function/overview", overview.list_function_rows, ACCOUNT, scopes=CALLERS,
          query=SHORT_PAGE, gives={200: list[overview.FunctionRow]}),
    Route("POST", "/v1/function", functions.create_function, ACCOUNT, scopes=FUNCTIONS,
          asks=functions.NewFunction, gives={201: tasks.Created}, makes="/v1/function/{id}",
          problems=("CONFLICT", *UPLOAD)),
    Route("GET", "/v1/function/{id}", functions.show_function, ACCOUNT, scopes=CALLERS,
          gives={200: functions.FunctionView}, problems=("NOT_FOUND",)),
    Route("PATCH", "/v1/function/{id}", functions.change_function, ACCOUNT, scopes=FUNCTIONS,
          asks=functions.FunctionChange, gives={204: None}, problems=("NOT_FOUND", "CONFLICT", *UPLOAD)),
    Route("DELETE", "/v1/function/{id}", functions.remove_function, ACCOUNT, scopes=FUNCTIONS,
          gives={204: None}, problems=("NOT_FOUND",)),
    Route("GET", "/v1/function/{id}/figures", overview.show_function_figures, ACCOUNT, scopes=CALLERS,
          gives={200: overview.FunctionFigures}, problems=("NOT_FOUND",)),
    Route("POST", "/v1/function/{id}/capabilities", functions.set_capabilities, ACCOUNT, scopes=FUNCTIONS,
          asks=functions.CapabilitiesChange, gives={204: None},
          problems=("NOT_FOUND", "CONFLICT", *UPLOAD)),

    Route("GET", "/v1/node/list", nodes.list_nodes, ACCOUNT, scopes=NODES,
          query=(*PAGE_OF_NODES, NODE_STATE, SEARCH), gives={200: list[nodes.NodeView]}),
    Route("POST", "/v1/node/join-token", nodes.make_join_token, ACCOUNT, scopes=NODES,
          asks=nodes.JoinTokenRequest, optional=True, gives={201: nodes.JoinToken}, problems=UPLOAD),
    Route("POST", "/v1/node/{nodeId}", nodes.join_node, JOIN,
          asks=nodes.NewNode, optional=True, gives={201: nodes.Credential},
          problems=("FORBIDDEN", "CONFLICT", *UPLOAD)),
    Route("GET", "/v1/node/{nodeId}", nodes.show_node, ACCOUNT, scopes=NODES,
          gives={200: nodes.NodeView}, problems=("NOT_FOUND",)),
    Route("PATCH", "/v1/node/{nodeId}", nodes.restore_node, ACCOUNT, scopes=NODES,
          asks=nodes.NodeChange, optional=True, gives={204: None}, problems=("NOT_FOUND", *UPLOAD)),
    Route("DELETE", "/v1/node/{nodeId}", nodes.remove_node, ACCOUNT, scopes=NODES,
          gives={204: None}, problems=("NOT_FOUND",)),
    Route("GET", "/v1/node/{nodeId}/tasks", overview.list_node_tasks, ACCOUNT, scopes=TASKS,
          query=(LIMIT,), gives={200: list[overview.TaskRow]}, problems=("NOT_FOUND",)),
    Route("GET", "/v1/node/{nodeId}/session", nodes.open_session, NODE,
          gives={101: None}),
    Route("GET", "/v1/node/{nodeId}/task/{taskId}/input", bodies.fetch_input, NODE,
          headers=(LEASE, RANGE), gives={200: BYTES, 206: BYTES}, problems=("NOT_FOUND", "CONFLICT")),
    Route("GET", "/v1/node/{nodeId}/task/{taskId}/result", bodies.show_upload, NODE,
          headers=(LEASE,), gives={200: None}, problems=("NOT_FOUND", "CONFLICT")),
    Route("PUT", "/v1/node/{nodeId}/task/{taskId}/result", bodies.put_result, NODE,
          headers=(LEASE, OFFSET, SIZE, SHA256), asks=BYTES, gives={204: None},
          problems=("NOT_FOUND", "CONFLICT", *UPLOAD, "WRONG_OFFSET", "CORRUPT")),

    Route("GET", "/v1/token/list", access.list_tokens, ACCOUNT, scopes=ADMIN,
          query=(*PAGE, OF_ACCOUNT), gives={200: list[access.TokenView]}, problems=("NOT_FOUND",)),
    Route("POST", "/v1/token", access.create_token, ACCOUNT, scopes=ADMIN,
          asks=access.NewToken, gives={201: access.CreatedToken}, makes="/v1/token/{id}",
          problems=("NOT_FOUND", *UPLOAD)),
    Route("GET", "/v1/token/{id}", access.show_token, ACCOUNT, scopes=ADMIN,
          gives={200: access.TokenView}, problems=("NOT_FOUND",)),
    Route("DELETE", "/v1/token/{id}", access.revoke_token, ACCOUNT, scopes=ADMIN,
          gives={204: None}, problems=("NOT_FOUND", "CONFLICT")),
    Route("GET", "/v1/account/list", access.list_accounts, ACCOUNT, scopes=ADMIN,
          query=PAGE_OF_ACCOUNTS, gives={200: list[access.AccountView]}, problems=("NOT_FOUND",)),
    Route("PATCH", "/v1/account/{accountId}", access.change_account, ACCOUNT, scopes=ADMIN,
          asks=access.AccountChange, gives={204: None}, problems=("FORBIDDEN", "NOT_FOUND", *UPLOAD)),
    Route("POST", "/v1/account", access.create_account, ACCOUNT, scopes=ADMIN,
          asks=access.NewAccount, gives={201: tasks.Created}, makes="/v1/account/{accountId}",
          problems=("NOT_FOUND", "CONFLICT", *UPLOAD)),
    Route("GET", "/v1/account/{accountId}", access.show_account, ACCOUNT, scopes=ADMIN,
          gives={200: access.AccountView}, problems=("NOT_FOUND",)),
    Route("GET", "/v1/audit", access.list_audit, ACCOUNT, scopes=ADMIN,
          query=(*PAGE, OF_ACCOUNT), gives={200: list[access.AuditView]}, problems=("NOT_FOUND",)),

    Route("POST", "/v1/session", browsers.log_in, OPEN,
          asks=browsers.LogIn, gives={204: None},
          problems=("INVALID", "UNAUTHENTICATED", "FORBIDDEN", "TOO_MANY", "INTERNAL", "UNAVAILABLE", *UPLOAD)),
    Route("GET", "/v1/session", browsers.show_who, ACCOUNT, scopes=ANY_SCOPE,
          gives={200: browsers.WhoView}),
    Route("DELETE", "/v1/session", browsers.log_out, ACCOUNT, scopes=ANY_SCOPE,
          gives={204: None}, problems=("CONFLICT",)),

    Route("GET", "/v1/summary", overview.show_summary, ACCOUNT, scopes=ANY_SCOPE, gives={200: overview.Summary}),
    Route("GET", "/v1/events", live.watch_account, ACCOUNT, scopes=ANY_SCOPE, query=(WATCHED,),
          headers=(LAST_EVENT,), gives={200: "text/event-stream"}, problems=("NOT_FOUND",)),

    Route("GET", "/", pages.show_page, OPEN, gives={200: "text/html", 304: None}),
    Route("GET", "/dashboard/{version}/{file}", pages.show_file, OPEN,
          gives={200: "*/*", 304: None}, problems=("NOT_FOUND",)),
    Route("GET", "/v1/openapi.json", health.show_openapi, OPEN, gives={200: "application/json"}),
    Route("GET", "/healthz", health.show_alive, OPEN, gives={200: health.Health}),
    Route("GET", "/readyz", health.show_ready, OPEN, gives={200: health.Health}, problems=("UNAVAILABLE",)),
    Route("GET", "/metrics", metrics.show_metrics, OPEN, gives={200: "text/plain"}),
)  # fmt: skip
