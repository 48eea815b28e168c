"""Faults under load, with an audit: whatever a caller was given an id for ends once, with its own answer."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests import postgres
from tests.contract.http_api.api import Api
from tests.contract.replicas.load import Running, each, load
from tests.contract.replicas.pair import NO_STORE, Replica

pytestmark = pytest.mark.timeout(240)


@asynccontextmanager
async def two_under_load(directory: Path, database: str) -> AsyncIterator[tuple[Replica, Replica, Running]]:
    """Two dispatchers over a database, four nodes that know both, and sixteen callers."""
    async with AsyncExitStack() as stack:
        replicas = [Replica(name, directory, database) for name in ("a", "b")]
        for replica in replicas:
            stack.push_async_callback(replica.close)
            await replica.start()
        async with aiohttp.ClientSession() as http:
            api = Api(http, replicas[0].url, replicas[0].token, NO_STORE)
            function = await api.function(retries=5)
            nodes = await each(4, api.join)
        urls = [replica.url for replica in replicas]
        running = await stack.enter_async_context(load(urls, replicas[0].token, function, nodes))
        await running.until(100)
        yield replicas[0], replicas[1], running


async def test_postgres_crashes_and_comes_back(tmp_path: Path) -> None:
    """The database crashes under load and is started again: callers wait, or ask again, and nothing is lost."""
    with postgres.running("fsync=off") as cluster:
        async with two_under_load(tmp_path, cluster.database("tasks")) as (_, _, running):
            cluster.stop("immediate")
            cluster.start()
            await running.until(150)
            await running.audit()


@pytest.mark.long
async def test_a_standby_is_promoted(tmp_path: Path) -> None:
    """The primary is killed and its synchronous standby promoted: the dispatchers find it by themselves."""
    with postgres.running("fsync=off") as primary, postgres.directory() as made:
        standby = postgres.Cluster(made, "fsync=off")
        standby.copy_of(primary)
        standby.start()
        try:
            primary.sql("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
            primary.sql("SELECT pg_reload_conf()")
            primary.database("tasks")
            url = primary.url("tasks").replace(f":{primary.port}/", f":{primary.port},127.0.0.1:{standby.port}/")
            async with two_under_load(tmp_path, url) as (a, _, running):
                primary.stop("immediate")
                standby.promote()
                await running.until(500)
                # The old primary comes back, and is not taken for one again.
                await a.kill()
                await a.start()
                await running.until(300)
                await running.audit()
        finally:
            standby.stop("immediate")


@pytest.mark.long
async def test_each_dispatcher_is_restarted_in_turn(tmp_path: Path) -> None:
    """A rolling restart under load, gently and by kill -9: nodes move by themselves, callers ask the other."""
    url = postgres.shared().schema(postgres.name_of(tmp_path))
    async with two_under_load(tmp_path, url) as (a, b, running):
        for number in (signal.SIGTERM, signal.SIGKILL):
            for replica in (a, b):
                replica.signal(number)
                await running.until(200)
                await replica.ended()
                await replica.start()
                await running.until(200)
        await running.audit()


@pytest.mark.long
async def test_a_dispatcher_that_is_cut_off_from_the_database(tmp_path: Path) -> None:
    """A is frozen until it is taken for dead, comes back, and finds itself out."""
    url = postgres.shared().schema(postgres.name_of(tmp_path))
    async with two_under_load(tmp_path, url) as (a, b, running):
        taken_for_dead = b.when("a dispatcher is silent and taken for dead")
        a.signal(signal.SIGSTOP)
        await taken_for_dead
        anew = a.when("the other dispatchers took this one for dead, its nodes come anew")
        a.signal(signal.SIGCONT)
        await anew
        await running.until(300)
        await running.audit()
