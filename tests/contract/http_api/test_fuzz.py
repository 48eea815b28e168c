"""Schemathesis: thousands of requests that the description of the API allows, and as many that it does not.

What it holds against each answer: no 5xx, only statuses, types and bodies that are described, what the description
allows is taken, what it does not allow is refused, what was removed is gone, and no access without a token.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.protocol import (
    HEARTBEAT_SECONDS,
    Accept,
    Capabilities,
    Lease,
    Load,
    NodeHeartbeat,
    Offer,
    Outcome,
    decode_from_dispatcher,
)
from tests.contract.http_api.api import CONFIG, Api, Node, Serve

EXAMPLES = int(os.environ.get("EXAMPLES") or 8)
"""Requests of each kind for each operation; `make fuzz` sends more."""

SEED = os.environ.get("SEED") or ("" if "EXAMPLES" in os.environ else "1")
"""The same requests each time, unless more are sent."""

NEVER_END = ("openSession", "watchAccount")
"""Operations without an end: a WebSocket, and a stream for as long as somebody listens."""


@pytest.fixture
async def api(serve: Serve) -> Api:
    server = replace(CONFIG.server, connections=500, read_timeout=5)
    return await serve(replace(CONFIG, server=server, limits=replace(CONFIG.limits, queue_length=10_000)))


@pytest.fixture
async def node(api: Api) -> AsyncIterator[Node]:
    """A node that keeps its first task, so that its lease stays good, and answers all others."""
    joined = Node(api, *await api.join())
    await joined.open(slots=1000)
    yield joined
    await joined.ws.close()


async def answer_tasks(node: Node, kept: Lease) -> None:
    """Answer whatever is offered, and keep one lease, for as long as the test runs."""
    clock = asyncio.get_running_loop().time
    beat_at = clock()
    while True:
        if clock() >= beat_at:
            beat_at = clock() + HEARTBEAT_SECONDS
            await node.send(NodeHeartbeat(1, [kept], Capabilities(8, 8192), node.credit, Load()))
        try:
            async with asyncio.timeout_at(beat_at):
                messages = decode_from_dispatcher(await node.ws.receive_bytes())
        except TimeoutError:
            continue
        for message in messages:
            if isinstance(message, Offer):
                headers = [("content-type", "application/json"), ("x-own", "1")]
                outcome = Outcome(message.lease, "answered", status=200, headers=headers, body=b"{}")
                await node.send(Accept(message.lease, node.credit), outcome)


async def configuration(api: Api, node: Node, function_id: str, kept: Lease) -> str:
    """Give what Schemathesis cannot know: the tokens of nodes, and ids of what is there.

    Nor can it know that the headers of an upload must fit its body, that a result says what became of a task (499,
    where that was cancelled), and that a node which was removed can be restored. It is also kept from revoking the
    token that it uses, and from removing the node that answers, or taking its place.
    """
    join_token = (await api("POST", "/v1/node/join-token")).json()["token"]
    token = (await api("POST", "/v1/token", content={"name": "spare", "scopes": ["tasks"]})).json()["id"]
    spare, _ = await api.join()
    ended = await api.task(function_id)  # the stream of one that goes on would have no end
    await api("DELETE", f"/v1/task/{ended}")
    result = '"2xx", "3xx", "401", "403", "404", "409", "429", "499"'
    return f"""
[[operations]]
include-operation-id = "createTask"
parameters = {{ id = "{function_id}" }}

[[operations]]
include-operation-id = ["createTask", "showResult"]
checks = {{ positive_data_acceptance = {{ expected-statuses = [{result}] }} }}

[[operations]]
include-operation-id = "watchTask"
parameters = {{ "path.id" = "{ended}" }}

[[operations]]
include-operation-id = "revokeToken"
parameters = {{ id = "{token}" }}

[[operations]]
include-operation-id = ["removeNode", "restoreNode"]
parameters = {{ nodeId = "{spare}" }}
checks = {{ use_after_free = {{ enabled = false }} }}

[[operations]]
include-operation-id = "joinNode"
headers = {{ Authorization = "{join_token}" }}
parameters = {{ "path.nodeId" = "{uuid.uuid4()}" }}

[[operations]]
include-operation-id = ["fetchInput", "showUpload", "putResult"]
headers = {{ Authorization = "{node.credential}" }}
parameters = {{ "path.nodeId" = "{node.id}", "path.taskId" = "{kept.task}", "X-Fernd-Lease" = "{kept.header()}" }}

[[operations]]
include-operation-id = "putResult"
checks = {{ positive_data_acceptance = {{ enabled = false }} }}
"""


@pytest.mark.timeout(1800)
async def test_the_description_is_true(api: Api, node: Node, tmp_path: Path) -> None:
    """Schemathesis finds nothing."""
    function_id = await api.function()
    await api.task(function_id, body=b"input")
    kept = (await node.take()).lease
    config = tmp_path / "schemathesis.toml"
    config.write_text(await configuration(api, node, function_id, kept))
    answering = asyncio.create_task(answer_tasks(node, kept))
    command = [
        *(str(Path(sys.executable).with_name("schemathesis")), f"--config-file={config}", "run"),
        f"{api.url}/v1/openapi.json",
        f"--header=Authorization: Bearer {api.token}",
        *(f"--exclude-operation-id={name}" for name in NEVER_END),
        *("--phases=coverage,fuzzing,stateful", f"--max-examples={EXAMPLES}"),
        *("--request-timeout=10", "--suppress-health-check=all", "--continue-on-failure", "--no-color"),
        *([f"--seed={SEED}"] if SEED else []),
    ]
    run = await asyncio.create_subprocess_exec(
        *command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said = (await run.communicate())[0].decode()
    print(shlex.join(command), said, sep="\n")  # noqa: T201 - the seed is in it
    answering.cancel()
    await asyncio.wait([answering])
    assert answering.cancelled(), "the node has answered to the end"
    assert (await api("GET", f"/v1/node/{node.id}")).json()["available"], "so has the token been good"
    assert run.returncode == 0, "Schemathesis has found something: see what it said"
