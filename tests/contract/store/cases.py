"""Tasks, functions and short ways to a state, which the tests of every store share."""

from __future__ import annotations

from collections.abc import AsyncIterator

from msgspec.structs import replace

from agent.protocol import Lease, Revision
from dispatcher.store.access import AuditLine, Scope, Token
from dispatcher.store.base import Store
from dispatcher.store.records import Claim, Ended, Function, Lost, NewTask, State, Verdict

ACCOUNT = "account"
REVISION = Revision(f"{0xF:024x}", 1, "image")
NODE = "3f0d2f8e-0000-4000-8000-000000000001"
OTHER_NODE = "3f0d2f8e-0000-4000-8000-000000000002"
ANSWER = Ended(9_000, 200, [("content-type", "text/plain")], b"out", 3)
LOST = Ended(9_500, 503, [], b"", 0, error="NODE_LOST", detail="no attempts are left")
CANCELLED = Ended(9_600, 499, [], b"", 0, state=State.CANCELLED, error="CANCELLED", detail="by its owner")


async def one_at_a_time(*chunks: bytes) -> AsyncIterator[bytes]:
    """Give chunks as a request's body gives them."""
    for chunk in chunks:
        yield chunk


def task_id(number: int) -> str:
    return f"{number:024x}"


def token(number: int) -> bytes:
    return number.to_bytes(16)


def new_task(number: int = 1, revision: Revision = REVISION, account: str = ACCOUNT, **fields: object) -> NewTask:
    values = {"query": "a=1&b=%20", "headers": [("x-one", "1"), ("x-one", "2")], "body": b"in", "body_size": 2}
    return NewTask(task_id(number), account, revision, 1000 + number, **{**values, **fields})  # type: ignore[arg-type]


def new_function(number: int = 1, account: str = ACCOUNT, **fields: object) -> Function:
    revision = Revision(f"{number:024x}", 1, "image", env={"KEY": "value"})
    values = {"name": f"function-{number}", "description": "", "lang": "PY", "type": "DOCKER", "created_ms": number}
    return Function(id=revision.function, account=account, revision=revision, **{**values, **fields})  # type: ignore[arg-type]


def new_token(number: int = 1, account: str = ACCOUNT, **fields: object) -> Token:
    values = {"name": f"token-{number}", "scopes": frozenset(Scope), "created_ms": number}
    return Token(id=f"{number:024x}", account=account, **{**values, **fields})  # type: ignore[arg-type]


def audit_line(number: int = 1, account: str = ACCOUNT) -> AuditLine:
    return AuditLine(f"{number:024x}", number, account, ACCOUNT, None, "test", "thing.change", "thing", "words")


async def claim_one(store: Store, number: int = 1, node: str = NODE, revision: Revision = REVISION) -> Claim:
    (claim,) = await store.claim(revision.key, node, [token(number)], 2_000)
    return claim


async def accepted(store: Store, number: int = 1) -> Lease:
    """Create a task and bring it to a node that accepted it."""
    await store.create_task(new_task(number))
    lease = (await claim_one(store, number)).lease
    assert await store.accept(lease, NODE)
    return lease


async def state_of(store: Store, number: int = 1) -> State:
    found = await store.task(ACCOUNT, task_id(number))
    assert found is not None
    return found.state


async def body_of(store: Store, key: str) -> bytes:
    return b"".join([piece async for piece in store.read_body(key)])


async def refuses_everything(store: Store, lease: Lease, node: str = NODE) -> None:
    """Try every write with a lease that is not good: each says so, and the task stays as it is."""
    before = await store.task(ACCOUNT, lease.task)
    assert not await store.accept(lease, node)
    assert not await store.progress(lease, "running", 99, "stale")
    assert not await store.release(lease)
    assert await store.lose(lease, LOST) is Lost.STALE
    assert not await store.holds(lease, node)
    assert await store.input_of(lease, node) is None
    assert await store.finish(lease, node, replace(ANSWER, body=b"stale")) is not Verdict.RECORDED
    assert await store.task(ACCOUNT, lease.task) == before
