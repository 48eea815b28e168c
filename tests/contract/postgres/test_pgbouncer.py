"""Through pgbouncer, which gives each transaction whichever connection is free."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from dispatcher.store.postgres import PostgresStore
from dispatcher.store.postgres.address import parse
from dispatcher.store.records import Verdict
from tests import postgres
from tests.chaos.programs import free_port
from tests.contract.store.cases import ACCOUNT, ANSWER, NODE, REVISION, body_of, new_task, one_at_a_time, task_id

PGBOUNCER = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")


@pytest.fixture
def proxied() -> Iterator[str]:
    """Give the URL of a database by way of a pgbouncer with two connections to it."""
    if PGBOUNCER is None:
        pytest.skip("pgbouncer is not installed")
    cluster, port = postgres.shared(), free_port()
    with postgres.directory() as directory:
        settings = directory / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\n* = host=127.0.0.1 port={cluster.port} user=fernd\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
            "pool_mode = transaction\ndefault_pool_size = 2\n"
        )
        Path(settings).chmod(0o644)
        process = subprocess.Popen(
            [PGBOUNCER, settings], stderr=subprocess.PIPE, text=True, user=postgres.owner(), extra_groups=[]
        )
        try:
            assert process.stderr is not None
            assert any("process up" in line for line in process.stderr)
            cluster.sql("DROP DATABASE IF EXISTS proxied WITH (FORCE)")
            cluster.database("proxied")
            yield f"postgresql://fernd@127.0.0.1:{port}/proxied"
        finally:
            process.terminate()
            process.communicate()


async def test_tasks_live_and_end(proxied: str) -> None:
    """60 tasks with ten callers over two connections: each is created, claimed, and recorded once; the log tells."""
    store = PostgresStore(parse(proxied), pool=10)
    with structlog.testing.capture_logs() as logged:
        await store.open()
    assert [line["log_level"] for line in logged if "proxy" in line["event"]] == ["warning"]
    await asyncio.gather(*(store.create_task(new_task(number)) for number in range(1, 61)))
    claims = await asyncio.gather(
        *(store.claim(REVISION.key, NODE, [(10 * n + m).to_bytes(16) for m in range(6)], 1) for n in range(10))
    )
    leases = [claim.lease for some in claims for claim in some]
    assert {lease.task for lease in leases} == {task_id(number) for number in range(1, 61)}
    await asyncio.gather(
        *(store.accept(lease, NODE) for lease in leases), *(store.holds(lease, NODE) for lease in leases)
    )
    verdicts = await asyncio.gather(*(store.finish(lease, NODE, ANSWER) for lease in leases))
    assert set(verdicts) == {Verdict.RECORDED}
    results = await asyncio.gather(*(store.result(ACCOUNT, lease.task) for lease in leases))
    assert all(result is not None and result.body == ANSWER.body for result in results)
    await store.write_body("key", one_at_a_time(b"x" * 700_000), 10**6)
    assert await body_of(store, "key") == b"x" * 700_000
    await store.ping()
    await store.close()
