"""The doctor's rounds: every check, in the order in which a node needs what it looks at."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from agent import identity
from agent.config import AgentConfig
from agent.containers.engine import Engine
from agent.doctor import line, machine
from agent.doctor.engine import fly_canary, look_at_engine
from agent.doctor.findings import Finding, worst

UNNAMED = "doctor"
"""In place of a node's id, on a machine that has not joined."""


class Diagnosis(Struct, frozen=True):
    """All findings; ``ok``: none of them failed."""

    ok: bool
    checks: list[Finding]


async def examine(config: AgentConfig, data_dir: Path) -> Diagnosis:
    """Look at everything that this machine needs to be a node. What does not answer is said, and passed by."""
    joined, known = _node(data_dir)
    engine = Engine()
    try:
        found, facts = await look_at_engine(engine, config.containers.runtimes_read)
        checks = [
            joined,
            found,
            machine.control_groups(),
            machine.kernel(),
            machine.rights(config.containers.reach),
            machine.disk("data", data_dir, "remove what is not needed there, or set node.data_dir to another disk"),
        ]
        if facts is not None and facts.root:
            checks.append(machine.disk("images", Path(facts.root), "`docker system df` says what takes the room"))
        urls = config.dispatcher.urls or (known.dispatchers if known is not None else [])
        if urls:
            checks += await line.look_at(urls)
        else:
            checks.append(Finding("dispatcher", "failed", "none is known", joined.cure))
        node = known.id if known is not None else UNNAMED
        checks.append(await fly_canary(engine, facts, config.containers, node, data_dir))
    finally:
        await engine.close()
    return Diagnosis(not worst(*checks), checks)


def _node(data_dir: Path) -> tuple[Finding, identity.Identity | None]:
    cure = "`fernd agent join URL --token TOKEN`, with a token of `fernd node join-token`"
    try:
        known = identity.load_identity(data_dir)
        if known is None:
            return Finding("node", "failed", f"this machine has not joined (looked in {data_dir})", cure), None
        identity.load_credential(data_dir)
    except identity.IdentityError as error:
        return Finding("node", "failed", str(error), "run the doctor as the agent's user; else join again"), None
    return Finding("node", "ok", f"{known.id}, joined at {', '.join(known.dispatchers)}"), known
