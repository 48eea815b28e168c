"""Nodes: join, list, show, remove, restore, and the door to a node's session."""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import hdrs, web
from msgspec import Meta, Struct

from agent.protocol import SUBPROTOCOL, Capabilities, Credit, Load
from dispatcher import audit, auth
from dispatcher.ids import is_node_id
from dispatcher.presence import Presence
from dispatcher.problem import Problem, invalid, not_found
from dispatcher.routes.answers import epoch_seconds, epoch_seconds_or_null, json, plain
from dispatcher.routes.keys import CORE, now_ms
from dispatcher.routes.paging import MAX_LIMIT, cursor_of, limit_of, page, part
from dispatcher.routes.reading import document, parameter
from dispatcher.store.errors import NodeDisabled, NodeTaken
from dispatcher.store.records import Node

DAY = 86_400

NODE_STATES = ("available", "unavailable", "away", "removed")
"""What a list can be filtered by: takes work; is connected and takes none; is not connected; was removed."""

AWAY = "not connected"

LOOKED_AT = 5 * MAX_LIMIT
"""Nodes that are looked at for one page of a filtered list."""


class JoinTokenRequest(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """For how many seconds the join token shall be good."""

    expires_in: Annotated[int, Meta(ge=1, le=30 * DAY)] = DAY


class JoinToken(Struct, frozen=True):
    """A join token, which is shown once, and when it expires, in epoch seconds."""

    token: str
    expires: str


class NewNode(Struct, frozen=True, forbid_unknown_fields=True):
    """A node that joins."""

    description: Annotated[str, Meta(max_length=80)] = ""


class Credential(Struct, frozen=True):
    """What a node proves itself with from now on. It is shown once."""

    credential: str


class NodeChange(Struct, frozen=True, forbid_unknown_fields=True):
    """Restores a node. To remove one, use DELETE."""

    disabled: Annotated[bool, Meta(extra_json_schema={"const": False})] = False


class NodeCapabilities(Struct, frozen=True, rename="camel"):
    """What a node is. `networkLatency` is in ms, null before it was measured.

    `runtimes` are the OCI runtimes that it runs functions by.
    """

    cpu_count: int | float
    mem_size: int
    network_latency: float | None
    privileged: bool
    runtimes: list[str]


class NodeCredit(Struct, frozen=True):
    """How much more a node can take: CPUs, MiB, tasks."""

    cpu: int | float
    memory: int
    slots: int


class NodeLoad(Struct, frozen=True, rename="camel"):
    """How busy a node's machine is: percent of all CPUs, MiB of memory free."""

    cpu_percent: float
    memory_free: int


class NodeLive(Struct, frozen=True, rename="camel"):
    """What of a node changes all the time; see `NodeView`."""

    hash: str
    connected: bool
    available: bool
    reason: str
    network_latency: float | None
    credit: NodeCredit | None
    load: NodeLoad | None
    running: int
    warm: list[str]
    clock_offset: float | None
    last_contact: str | None


class NodeView(Struct, frozen=True, rename="camel"):
    """A node. `credit` and `load` are null while it is not connected; `reason` says why it is not available.

    `clockOffset` is by how many milliseconds the dispatcher's clock is ahead of the node's.
    """

    hash: str
    description: str
    available: bool
    disabled: bool
    reason: str
    capabilities: NodeCapabilities
    credit: NodeCredit | None
    load: NodeLoad | None
    running: int
    warm: list[str]
    clock_offset: float | None
    version: str
    joined: str
    last_contact: str | None


async def make_join_token(request: web.Request, account: str) -> web.StreamResponse:
    """Make a token with which nodes can join this account until it expires."""
    asked = await document(request, JoinTokenRequest, default=JoinTokenRequest())
    token, now = auth.new_token(), now_ms(request.app)
    expires_ms = now + asked.expires_in * 1000
    line = audit.line(request, "join-token.create", account, f"good for {asked.expires_in} s")
    await request.app[CORE].store.add_join_token(auth.token_hash(token), account, now, expires_ms, line)
    audit.committed(line)
    return json(JoinToken(token, epoch_seconds(expires_ms)), 201)


async def join_node(request: web.Request, account: str) -> web.StreamResponse:
    """Join a node to the account of the join token. A node that joined before gets a new credential."""
    node_id = request.match_info["nodeId"]
    if not is_node_id(node_id):
        raise invalid("nodeId", "nodeId: expected a UUID in lower case")
    asked = await document(request, NewNode, default=NewNode())
    credential, core, joined_ms = auth.new_token(), request.app[CORE], now_ms(request.app)
    line = audit.by_join_token(request, account, node_id, asked.description)
    try:
        await core.store.join_node(
            node_id, account, asked.description, auth.token_hash(credential), joined_ms, audit=line
        )
    except NodeTaken:
        raise Problem("CONFLICT", "this node id belongs to another account") from None
    except NodeDisabled:
        raise Problem("FORBIDDEN", "this node was removed; its owner can restore it") from None
    audit.committed(line)
    core.feed.nodes(account)
    # Whoever speaks with the earlier credential does so no longer.
    core.node_joined(node_id, joined_ms)
    return json(Credential(credential), 201, f"/v1/node/{node_id}")


async def list_nodes(request: web.Request, account: str) -> web.StreamResponse:
    """List nodes by id. Where few of many are asked for, a page may have fewer than fit, and still a next one."""
    limit, cursor = limit_of(request), cursor_of(request, is_node_id)
    state, words = parameter(request, "state"), (parameter(request, "search") or "").lower()
    if state is not None and state not in NODE_STATES:
        raise invalid("state", f"state: expected one of {', '.join(NODE_STATES)}")
    if state is None and not words:
        core = request.app[CORE]
        rows = await core.store.nodes(account, limit + 1, cursor)
        presences = await core.presences([node.id for node in rows])
        return page(request, rows, lambda node: view(node, presences.get(node.id)), lambda node: node.id)
    shown, cursor = await _found(request, account, state=state, words=words, after=cursor)
    return part(request, shown, cursor)


async def show_node(request: web.Request, account: str) -> web.StreamResponse:
    """Show a node."""
    node_id, core = request.match_info["nodeId"], request.app[CORE]
    node = await core.store.node(account, node_id) if is_node_id(node_id) else None
    if node is None:
        raise not_found("node")
    return json(view(node, (await core.presences([node_id])).get(node_id)))


async def remove_node(request: web.Request, account: str) -> web.StreamResponse:
    """Remove a node: its session closes at once and its tasks go back to the queue."""
    await _set_disabled(request, account, disabled=True)
    request.app[CORE].feed.nodes(account)
    await request.app[CORE].remove_node(request.match_info["nodeId"])
    return web.Response(status=204)


async def restore_node(request: web.Request, account: str) -> web.StreamResponse:
    """Restore a node that was removed. Its credential is good again."""
    change = await document(request, NodeChange, default=NodeChange())
    if change.disabled:
        raise invalid("disabled", "disabled: expected false; to remove a node, use DELETE")
    await _set_disabled(request, account, disabled=False)
    request.app[CORE].feed.nodes(account)
    return web.Response(status=204)


async def open_session(request: web.Request, node: Node) -> web.StreamResponse:
    """Open the node's session: a WebSocket of MessagePack frames. See `agent/protocol.py`."""
    if request.headers.get(hdrs.UPGRADE, "").lower() != "websocket":
        raise invalid("Upgrade", "a session is a WebSocket; Upgrade: websocket is missing")
    offered = ",".join(request.headers.getall(hdrs.SEC_WEBSOCKET_PROTOCOL, ())).split(",")
    if SUBPROTOCOL not in (name.strip() for name in offered):
        raise invalid("Sec-WebSocket-Protocol", f"a session speaks {SUBPROTOCOL}")
    return await request.app[CORE].sessions.serve(request, node)


async def _found(
    request: web.Request, account: str, *, state: str | None, words: str, after: str | None
) -> tuple[list[NodeView], str | None]:
    """Look for nodes in a state, with some words in their id or description; give some, and where to go on."""
    core, limit = request.app[CORE], limit_of(request)
    shown: list[NodeView] = []
    for _ in range(LOOKED_AT // MAX_LIMIT):
        rows = await core.store.nodes(account, MAX_LIMIT, after)
        presences = await core.presences([node.id for node in rows])
        for node in rows:
            after = node.id
            if words not in node.id and words not in node.description.lower():
                continue
            found = view(node, presences.get(node.id))
            if state is None or state == _state(found, connected=found.credit is not None):
                shown.append(found)
            if len(shown) == limit:
                return shown, after
        if len(rows) < MAX_LIMIT:
            return shown, None
    return shown, after


def _state(node: NodeView, *, connected: bool) -> str:
    if node.disabled:
        return "removed"
    if node.available:
        return "available"
    return "unavailable" if connected else "away"


def live(node_id: str, presence: Presence | None) -> NodeLive:
    """Show what of a node changes all the time."""
    if presence is None:
        return NodeLive(node_id, False, False, AWAY, None, None, None, 0, [], None, None)
    return NodeLive(
        hash=node_id,
        connected=True,
        available=presence.available,
        reason=presence.reason,
        network_latency=presence.capabilities.network_latency,
        credit=_credit(presence.credit),
        load=_load(presence.load),
        running=presence.running,
        warm=presence.warm,
        clock_offset=presence.clock_offset,
        last_contact=epoch_seconds(presence.seen_ms),
    )


def view(node: Node, presence: Presence | None) -> NodeView:
    """Show a node as answers do.

    Args:
        presence: What its session says of it; None while it has none.
    """
    if presence is None:
        capabilities = _last_known(node)
        reason, version, seen_ms = AWAY, node.version, node.seen_ms
    else:
        capabilities = presence.capabilities
        reason, version, seen_ms = presence.reason, presence.version, presence.seen_ms
    return NodeView(
        hash=node.id,
        description=node.description,
        available=presence is not None and presence.available and not node.disabled,
        disabled=node.disabled,
        reason="removed" if node.disabled else reason,
        capabilities=NodeCapabilities(
            plain(capabilities.cpu_count),
            capabilities.mem_size,
            capabilities.network_latency,
            capabilities.privileged,
            capabilities.runtimes,
        ),
        credit=None if presence is None else _credit(presence.credit),
        load=None if presence is None else _load(presence.load),
        running=0 if presence is None else presence.running,
        warm=[] if presence is None else presence.warm,
        clock_offset=None if presence is None else presence.clock_offset,
        version=version,
        joined=epoch_seconds(node.joined_ms),
        last_contact=epoch_seconds_or_null(seen_ms),
    )


def _credit(credit: Credit) -> NodeCredit:
    return NodeCredit(plain(credit.cpu), credit.memory, credit.slots)


def _load(load: Load) -> NodeLoad:
    return NodeLoad(load.cpu_percent, load.memory_free)


def _last_known(node: Node) -> Capabilities:
    if not node.capabilities_json:
        return Capabilities(0, 0)
    return msgspec.json.decode(node.capabilities_json, type=Capabilities)


async def _set_disabled(request: web.Request, account: str, *, disabled: bool) -> None:
    node_id, store = request.match_info["nodeId"], request.app[CORE].store
    line = audit.line(request, "node.remove" if disabled else "node.restore", node_id)
    if not is_node_id(node_id) or not await store.set_node_disabled(account, node_id, disabled, line):
        raise not_found("node")
    audit.committed(line)
