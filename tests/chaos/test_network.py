"""Faults of the network and the driver, one by one, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from session_lock import PostgresDatabase
from session_lock.catalog import read_shape
from session_lock.embedded import temp_postgres
from session_lock.schema import render
from tests.chaos.pgbouncer import one_to_harm, unnamed
from tests.chaos.recording import Injected
from tests.chaos.scene import AT_NIGHT, QUICK, WITHIN, Scene, scene_in
from tests.conftest import TestDatabase, prepare_template
from tests.proxy import Proxy, proxy
from tests.support import EMAILS

# A slow one ---------------------------------------------------------------------------------------------


@pytest.mark.fault("N5")
async def test_a_slow_network_that_loses_packets_loses_no_lease(scene: Scene, seed: int) -> None:
    """As a client sees it: 100 ms for a round trip, and now and then a pause until what was lost is sent again."""
    dice = random.Random(seed)
    scene.seconds = 0.2

    async def lose_packets(network: Proxy) -> None:
        while True:
            await asyncio.sleep(0.05)
            for link in network.links:
                if dice.random() < 0.05:
                    link.hold(dice.choice(["up", "down"]))
                    asyncio.get_running_loop().call_later(0.25, link.let_through)

    async with proxy(scene.dsn) as network, asyncio.TaskGroup() as group:
        network.delay = 0.05
        losing = group.create_task(lose_packets(network))
        keys = await scene.add(600 if AT_NIGHT else 60)
        async with scene.running(network.dsn, lease_ttl=6, keepalive_interval=0.6, call_timeout=3):
            await scene.until_finished()
            await asyncio.sleep(7)
            assert await scene.sessions() == (1, 1)
        losing.cancel()
    assert scene.runs == dict.fromkeys(keys, 1)


# Connections that are not to be had ---------------------------------------------------------------------


@pytest.mark.fault("N9")
async def test_a_pool_of_the_users_that_is_exhausted_holds_up_nothing_else(scene: Scene) -> None:
    """For longer than a lease: what needs no transaction is finished, and the lease is kept; then the others as well."""
    waiting, rest = (await scene.add(2)), (await scene.add(8))
    await scene.admin.execute("UPDATE email SET body = 'in a transaction' WHERE id = ANY ($1)", waiting)

    async def tasker(task: Any) -> None:
        if task.data["body"]:
            async with task.transaction():
                pass

    async with asyncpg.create_pool(scene.dsn, min_size=0, max_size=1) as pool:
        async with pool.acquire(), scene.running(tasker=tasker, pool=pool):
            await scene.until(f"count(*) = {len(rest)} FROM email WHERE sent_at IS NOT NULL")
            await asyncio.sleep(QUICK.lease_ttl + 0.5)
            assert await scene.sessions() == (1, 1)
        assert await scene.ask("count(*) FROM email WHERE sent_at IS NULL") == len(waiting)
        async with scene.running(tasker=tasker, pool=pool):
            await scene.until_finished()


@pytest.mark.fault("N10")
async def test_a_server_that_takes_no_more_connections() -> None:
    with temp_postgres(max_connections=12) as server:
        await prepare_template(server.dsn)
        app = TestDatabase(server.dsn, "postgres").app_dsn
        async with scene_in(server.dsn, app) as scene, AsyncExitStack() as others:
            scene.seconds = 0.05
            async with scene.running() as first:
                await scene.add(8)
                await scene.until_finished()
                # Its keepalives have a connection from the first one on.
                await scene.until(
                    "expires_at > started_at + interval '3.2 seconds' FROM session_lock.session"
                )
                with pytest.raises(asyncpg.TooManyConnectionsError):
                    while True:
                        connection = await asyncpg.connect(app)
                        others.push_async_callback(connection.close)
                # Those that are open serve on.
                await scene.add(40)
                await asyncio.sleep(QUICK.lease_ttl)
                await scene.until_finished()
                assert await scene.sessions() == (1, 1)

                async with scene.running() as second:
                    await asyncio.sleep(0.5)
                    assert not second.ready
                    # Without one of its own the first ends what it runs, before its lease is over.
                    scene.seconds = 60
                    (key,) = await scene.add(1)
                    await scene.until("EXISTS (SELECT FROM email WHERE session_id IS NOT NULL)")
                    async with taken(server.dsn, app, "session_lock"):
                        async with asyncio.timeout(WITHIN):
                            while not scene.cancelled[key]:
                                await asyncio.sleep(0.02)
                        assert await scene.ask("expires_at > clock_timestamp() FROM session_lock.session")
                        assert not first.ready
                        scene.seconds = 0.05
                        await others.aclose()
                    await scene.until_finished()
                    assert first.ready or second.ready


@asynccontextmanager
async def taken(admin_dsn: str, dsn: str, name: str) -> AsyncIterator[None]:
    """The connections with this `application_name`, and the places that come free by it."""
    admin = await asyncpg.connect(admin_dsn)
    async with AsyncExitStack() as places:
        end = "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE application_name = $1"
        while await admin.fetch(end, name):  # again, where somebody was quicker than we
            with suppress(asyncpg.TooManyConnectionsError):
                while True:
                    places.push_async_callback((await asyncpg.connect(dsn)).close)
        yield
    await admin.close()


# PgBouncer ----------------------------------------------------------------------------------------------


@pytest.mark.fault("N12")
async def test_a_pgbouncer_that_pauses_restarts_and_loses_its_server(
    scene: Scene, injected: Injected
) -> None:
    """The Runner waits, and goes on; at night again and again."""
    with one_to_harm(scene.dsn) as pooler:
        async with scene.running(unnamed(pooler.dsn)) as runner:
            for _ in range(20 if AT_NIGHT else 1):
                await scene.add(20)
                pooler.pause()
                await asyncio.sleep(1.5 * QUICK.call_timeout)
                pooler.resume()
                await scene.until_finished()
                pooler.kill()
                await scene.add(20)
                await asyncio.sleep(0.5)
                pooler.start()
                await scene.until_finished()
                await scene.add(20)
                await scene.end_backends()
                await scene.until_finished()
                assert runner.ready
                injected("N12", 3)


# One connection, and its next call ----------------------------------------------------------------------


@pytest.mark.fault("N14")
async def test_a_cancel_request_that_comes_late_harms_no_other_call(
    scene: Scene, seed: int, injected: Injected
) -> None:
    """Of each call that was cancelled, again and again, while others follow."""
    dice = random.Random(seed)
    opened: list[asyncpg.Connection] = []

    async def connect() -> asyncpg.Connection:
        opened.append(await asyncpg.connect(scene.dsn))
        return opened[-1]

    async def cancel(backend: int) -> None:
        for _ in range(10):
            await scene.admin.execute(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE pid = $1", backend
            )

    await scene.add(10)
    cancelled = 0
    async with PostgresDatabase(connect, EMAILS, listen=False) as emails:
        lease = await emails.start_session(capacity=20, ttl=600)
        while cancelled < (1000 if AT_NIGHT else 25):
            backend = opened[-1].get_server_pid()  # one call at a time: it is this one's
            call = asyncio.create_task(emails.get_work(lease, limit=1))
            await asyncio.sleep(dice.uniform(0, 0.003))
            call.cancel()
            await asyncio.wait({call})
            if call.cancelled():
                cancelled += 1
                late = asyncio.create_task(cancel(backend))
                while not late.done():
                    await emails.get_work(lease, limit=0)
        await emails.end_session(lease)
    injected("N14", cancelled)


@pytest.mark.fault("N15")
async def test_connections_that_are_dropped_when_they_idle(scene: Scene, injected: Injected) -> None:
    """Each keepalive, and each look, finds its connection dropped."""
    await scene.set_for_role("idle_session_timeout", "150ms")
    async with scene.running(poll_interval=0.5, lease_ttl=6, call_timeout=2):
        for _ in range(60 if AT_NIGHT else 5):
            await scene.add(3)
            await scene.until_finished()
            await asyncio.sleep(0.6)
        assert await scene.sessions() == (1, 1)
    dropped = await scene.ask("sessions_fatal FROM pg_stat_database WHERE datname = current_database()")
    assert dropped >= 5
    injected("N15", dropped)


@pytest.mark.fault("N16")
async def test_a_name_that_leads_elsewhere_is_asked_for_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two addresses of the server; the first one is given up behind the name, and then its connections are cut."""
    asked, getaddrinfo = [], socket.getaddrinfo
    async with proxy(scene.dsn) as old, proxy(scene.dsn) as new:
        current = old

        def answer(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
            if host != "database.example":
                return getaddrinfo(host, port, *arguments, **options)
            asked.append(current.port)
            return getaddrinfo("127.0.0.1", current.port, *arguments, **options)

        monkeypatch.setattr(socket, "getaddrinfo", answer)
        parts = urlsplit(scene.dsn)
        credentials = parts.netloc.rpartition("@")[0]
        named = parts._replace(netloc=f"{credentials}@database.example:5432").geturl()
        async with scene.running(named):
            await scene.add(5)
            await scene.until_finished()
            assert {*asked} == {old.port}
            current = new
            old.cut()
            await scene.add(5)
            await scene.until_finished()
            assert old.links == []
            assert new.accepted > 0
            assert await scene.sessions() == (1, 1)


# Notifications ------------------------------------------------------------------------------------------


@pytest.mark.fault("N8")
async def test_many_writers_do_not_queue_for_notifications_that_nobody_waits_for(
    scene: Scene, injected: Injected
) -> None:
    """The Runner is at its limit: neither the writers' quiet trigger nor its claims, finishes and keepalives send any."""
    shape = await read_shape(scene.admin, EMAILS)
    await scene.admin.execute(render("tasks.trigger.sql", EMAILS, shape, quiet=True))
    heard: list[str] = []
    spy = await asyncpg.connect(scene.dsn)
    await spy.add_listener("session_lock", lambda *told: heard.append(told[-1]))
    writers, each_writes = (50, 100) if AT_NIGHT else (8, 10)

    async def write() -> None:
        connection = await asyncpg.connect(scene.dsn)
        for _ in range(each_writes):
            await connection.execute("INSERT INTO public.email (address) VALUES ('a')")
        await connection.close()

    await scene.admin.execute("GRANT INSERT ON public.email TO app")
    await scene.add(60)
    scene.seconds = 0.05
    async with scene.running():
        await scene.until("NOT idle FROM session_lock.session")
        await scene.until("EXISTS (SELECT FROM email WHERE sent_at IS NOT NULL)")
        heard.clear()
        await asyncio.gather(*(write() for _ in range(writers)))
        await scene.until("count(*) >= 50 FROM email WHERE sent_at IS NOT NULL")
        await spy.execute("SELECT 1")
        assert heard == []
        scene.seconds = 0
        await scene.until_finished()
    injected("N8", writers * each_writes)
    await spy.close()
