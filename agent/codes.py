"""Every error code that a caller can meet: its HTTP status, what it means, where it comes from, and what helps.

The dispatcher answers by this table, ``fernd explain`` prints from it, and ``docs/errors.md`` is made of it.
"""

from __future__ import annotations

from typing import NamedTuple


class Code(NamedTuple):
    """What a code means. `cause` and `cure` are sentences for whoever met it."""

    status: int
    title: str
    cause: str
    cure: str


REQUESTS = {
    "INVALID": Code(
        400,
        "The request is not valid",
        "A field, a parameter, a header or the body is not what it must be. `field` names it and `detail` says what was"
        " expected.",
        "Correct that part of the request. /v1/openapi.json describes every part.",
    ),
    "UNAUTHENTICATED": Code(
        401,
        "A valid token is needed",
        "The request carries no token, or one that is not known, has expired or was revoked; or the browser's session"
        " has ended.",
        "Send `Authorization: Bearer TOKEN`. `fernd login URL` tries a token and remembers it; `fernd token create`"
        " makes a new one. In a browser, log in again.",
    ),
    "FORBIDDEN": Code(
        403,
        "This is not allowed",
        "The token has not the scope that `detail` names, its account does not administer the others, the node was"
        " removed, or a page of another origin made the browser send the request.",
        "Use a token with that scope (`fernd token create NAME --scope …`), or let the node's owner restore it"
        " (`fernd node restore ID`).",
    ),
    "NOT_FOUND": Code(
        404,
        "There is no such thing",
        "The id or the path is wrong, the thing was removed, or it belongs to another account. A finished task is"
        " removed after the dispatcher's `[store] retention`.",
        "Compare the id with `fernd function list`, `fernd task list` or `fernd node list`, with a token of the account"
        " that owns the thing.",
    ),
    "NOT_FINISHED": Code(
        404,
        "The task is not finished",
        "Its result and its log are there when it has ended.",
        "Ask again after `Retry-After` seconds, wait with `Prefer: wait=60`, or follow `/v1/task/ID/events`.",
    ),
    "METHOD_NOT_ALLOWED": Code(
        405,
        "The method is not allowed here",
        "The path is right, and the method is not.",
        "Use one of the methods that `Allow` lists.",
    ),
    "TOO_SLOW": Code(
        408,
        "The request did not arrive in time",
        "Nothing of the body came for the dispatcher's `[server] read_timeout`, or a large JSON body took more than a"
        " minute.",
        "Send again over a better line; send large inputs with a content type that is not JSON, so that they need not"
        " be checked.",
    ),
    "CONFLICT": Code(
        409,
        "The request conflicts with what is there",
        "A name is taken, the task has ended already, an `Idempotency-Key` was used for something else, a node belongs"
        " to another account, or nobody could administer any more. `detail` says which.",
        "Look at what is there, and ask for something else.",
    ),
    "NO_RUNNER": Code(
        409,
        "The function has no image",
        "The function was created without an image, so there is nothing to run.",
        "Set one: `fernd function set NAME --image IMAGE`.",
    ),
    "TOO_LARGE": Code(
        413,
        "The body is too large",
        "The body has more bytes than the dispatcher takes: `[limits] body` for a task's input, `[limits] result` for a"
        " result.",
        "Send less, or raise the limit in the dispatcher's settings.",
    ),
    "WRONG_OFFSET": Code(
        416,
        "The upload does not go on where it stands",
        "A node went on with the upload of a result at another byte than the dispatcher has kept.",
        "Nodes ask where it stands and go on from there by themselves.",
    ),
    "CORRUPT": Code(
        422,
        "The upload is not what it says it is",
        "The bytes of an uploaded result have another SHA-256 than was announced. They were dropped.",
        "Nodes upload again by themselves. Where it comes again and again, look for what changes bytes on the way.",
    ),
    "QUEUE_FULL": Code(
        429,
        "Too many tasks are waiting",
        "As many tasks wait as the dispatcher's `[limits] queue_length` allows, or as many of this account as its own"
        " limit does. `detail` says which.",
        "Ask again after `Retry-After` seconds. `fernd node list` shows whether nodes take work; add nodes where all"
        " are busy.",
    ),
    "TOO_MANY": Code(
        429,
        "This was tried too often",
        "Several log-ins from this address have failed one after the other.",
        "Wait for `Retry-After` seconds. Behind a reverse proxy set `[access] behind_proxy`, so that browsers do not"
        " share one address.",
    ),
    "INTERNAL": Code(
        500,
        "Something went wrong here",
        "A mistake of the dispatcher. Its log has the whole of it, at the time of the request.",
        "Ask again; report it with the lines of the log.",
    ),
    "UNAVAILABLE": Code(
        503,
        "The service cannot answer for now",
        "The database does not answer, the dispatcher is about to stop, or it has all the connections that it takes.",
        "Ask again after `Retry-After` seconds. Where it lasts, look at `/readyz` and the dispatcher's log.",
    ),
}
"""What can be wrong with a request."""

TASKS = {
    "TIMEOUT": Code(
        504,
        "The function did not answer within its timeout",
        "The time from the request to the end of the answer was longer than the function's timeout. Pulling the image"
        " and starting the container do not count.",
        "Look at `fernd task logs ID` for what it was doing. Raise the limit with `fernd function set NAME --timeout"
        " SECONDS`, up to 900, or do less in one task.",
    ),
    "OOM_KILLED": Code(
        500,
        "The function ran out of memory",
        "The kernel ended a process of the container, by its own count, because the container's memory limit was"
        " reached.",
        "Give it more: `fernd function set NAME --memory MIB`. Without a number a container has 256 MiB.",
    ),
    "CRASHED": Code(
        502,
        "The function ended without an answer",
        "The container's process ended, or somebody else ended it, before the answer was whole. `detail` has the exit"
        " code or the signal.",
        "`fernd task logs ID` shows what it wrote last. Run the image by hand with the same input.",
    ),
    "NEVER_READY": Code(
        502,
        "The function did not become ready",
        "The server in the container did not accept connections on `$PORT` (8080), or its ready path did not answer"
        " 2xx, within the node's `[containers] start_timeout`.",
        "Let the server listen on `$PORT`, on all addresses and not on localhost alone; correct the ready path; raise"
        " the node's limit for an image that starts slowly. An image that is no server needs `--mode job`.",
    ),
    "BAD_RESPONSE": Code(
        502,
        "The function's answer cannot be understood",
        "What the server in the container sent is not an HTTP/1.1 answer, or broke off.",
        "`detail` says what was wrong. Call the server by hand and compare.",
    ),
    "RESULT_TOO_LARGE": Code(
        502,
        "The function's answer is too large",
        "The body of the answer has more bytes than the dispatcher's `[limits] result`, 32 MiB unless it says"
        " otherwise.",
        "Answer with less, or with a reference to where it was stored; or raise the limit.",
    ),
    "IMAGE_UNAVAILABLE": Code(
        503,
        "The function's image cannot be had",
        "The node does not have the image, or is to fetch it each time, and the registry did not give it."
        " `detail` has the engine's words.",
        "Check the name and tag, and pull it on the node by hand with the engine's own command to see the reason.",
    ),
    "NODE_LOST": Code(
        503,
        "The nodes that ran the task were lost",
        "Each node that had the task went silent or gave it back, and no attempts are left.",
        "See `fernd node list` for what became of the nodes. `fernd function set NAME --retries N` allows more"
        " attempts; with 0 a task never runs twice.",
    ),
    "NO_CAPABLE_NODE": Code(
        503,
        "No node can run the task",
        "For as long as the dispatcher's `[queue] wait` no connected node had what the function asks for. `detail`"
        " says what was missing.",
        "Compare `fernd function show NAME` with `fernd node list`; ask for less, or add a node that has it.",
    ),
    "CANCELLED": Code(
        499,
        "The task was cancelled",
        "Its owner cancelled it. `fernd audit` says who did.",
        "Create it again if it is still wanted.",
    ),
}
"""How a task can end without an answer."""

CODES = REQUESTS | TASKS
