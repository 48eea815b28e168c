"""How a machine becomes a node: a join token against a credential."""

from __future__ import annotations

import platform
import uuid
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import msgspec
from msgspec import Struct

from agent import identity
from agent.identity import Identity
from agent.proxies import way_to

ANSWER_SECONDS = 15.0

DESCRIPTION_LIMIT = 80
"""Characters of a description that a dispatcher takes."""


class Unreachable(Exception):
    """No dispatcher answers; the text says why."""


class Refused(Exception):
    """A dispatcher answers and does not let the node join; the text is its reason."""


class _Joined(Struct):
    credential: str


class _Problem(Struct):
    detail: str = ""
    title: str = ""


async def join(urls: Sequence[str], token: str, data_dir: Path, description: str) -> Identity:
    """Join this machine to an account and keep the credential. A node that joins again keeps its id.

    Args:
        urls: Base addresses of dispatchers, one at least; the first that answers is asked.
        token: A join token.
        description: What people see beside the node's id; empty: the machine's name.

    Raises:
        Unreachable: No dispatcher answers, or none is able to.
        Refused: The token or the node is not accepted.
        identity.IdentityError: The data directory cannot be used.
    """
    known = identity.load_identity(data_dir)
    node = Identity(known.id if known else str(uuid.uuid4()), [url.rstrip("/") for url in urls])
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS)) as http:
        credential = await _first_answer(http, node, token, description or platform.node()[:DESCRIPTION_LIMIT])
    identity.save(data_dir, node, credential)
    return node


async def _first_answer(http: aiohttp.ClientSession, node: Identity, token: str, description: str) -> str:
    problems = []
    for url in node.dispatchers:
        try:
            return await _ask(http, f"{url}/v1/node/{node.id}", token, description)
        except TimeoutError:
            problems.append(f"{url}: no answer within {ANSWER_SECONDS:g} s")
        except (aiohttp.ClientError, OSError) as error:
            problems.append(f"{url}: {error}")
        except Unreachable as error:
            problems.append(f"{url}: {error}")
    raise Unreachable("; ".join(problems))


async def _ask(http: aiohttp.ClientSession, url: str, token: str, description: str) -> str:
    headers = {"Authorization": f"Bearer {token}"}
    wanted = {"description": description}
    async with http.post(url, json=wanted, headers=headers, allow_redirects=False, **way_to(url)) as response:
        content = await response.read()
        if response.status == 201:
            try:
                return msgspec.json.decode(content, type=_Joined).credential
            except msgspec.MsgspecError:
                raise Unreachable("what answers there is no dispatcher of fernd") from None
        try:
            problem = msgspec.json.decode(content, type=_Problem)
        except msgspec.MsgspecError:
            problem = _Problem()
        reason = problem.detail or problem.title or f"it answered {response.status}"
        if response.status >= 500 or response.status == 429:
            raise Unreachable(reason)
        raise Refused(reason)
