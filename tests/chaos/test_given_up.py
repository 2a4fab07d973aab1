"""A call that was given up is not carried out behind the back of the next one."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import asyncpg
import pytest

from session_lock import DatabaseError, PostgresDatabase, Runner, Settings, each
from tests.proxy import proxy
from tests.support import EMAIL_TABLE, EMAILS, add_emails, apply_mapping


@pytest.mark.fault("N2")
async def test_a_backend_that_stood_still_does_not_claim_what_the_session_runs(database) -> None:
    """SIGSTOP of the backends that get work, for longer than the call timeout: no task of the live session runs twice."""
    admin = await asyncpg.connect(database.admin_dsn)
    runs: list[int] = []

    async def send(task) -> None:
        runs.append(task.key)
        await asyncio.sleep(0.5)

    try:
        await admin.execute(EMAIL_TABLE)
        await apply_mapping(admin, EMAILS, grant_to="app")
        settings = Settings(
            start_jitter=0,
            poll_interval=0.2,
            call_timeout=0.4,
            keepalive_interval=1,
            concurrency=20,
            lease_ttl=30,
        )
        async with PostgresDatabase(database.app_dsn, EMAILS) as emails, Runner(emails, each(send), settings):
            for _ in range(3):
                pids: list[int] = []
                while (
                    not pids
                ):  # between two looks: one that is stopped in a lock of the server's would stop it all
                    pids = await backends(admin, "%get_work_email%", state="idle")
                if not all(runs_here(pid) for pid in pids):
                    pytest.skip("the server runs on another machine")
                for pid in pids:
                    os.kill(pid, signal.SIGSTOP)
                try:
                    adding = asyncio.create_task(add_emails(admin, 10))
                    await asyncio.sleep(0.9)
                finally:
                    for pid in pids:
                        os.kill(pid, signal.SIGCONT)
                await adding
                async with asyncio.timeout(10):
                    while await admin.fetchval("SELECT count(*) FROM email WHERE sent_at IS NULL"):
                        await asyncio.sleep(0.02)
        assert sorted(runs) == sorted(set(runs))
        assert await backends(admin, "%") == []
    finally:
        await admin.close()


async def backends(admin: asyncpg.Connection, query: str, *, state: str = "%") -> list[int]:
    rows = await admin.fetch(
        "SELECT pid FROM pg_stat_activity WHERE query LIKE $1 AND state LIKE $2 AND usename = 'app'"
        " AND datname = current_database()",
        query,
        state,
    )
    return [row["pid"] for row in rows]


def runs_here(pid: int) -> bool:
    try:
        return "postgres" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False


@pytest.mark.fault("N1")
async def test_the_backend_of_a_connection_that_was_lost_is_ended_too(database) -> None:
    """The network takes the connection from under a call; the server has not noticed, and its statement waits on."""
    admin = await asyncpg.connect(database.admin_dsn)
    locker = await asyncpg.connect(database.admin_dsn)  # a transaction sees the activity of its start
    opened: list[asyncpg.Connection] = []

    async def connect() -> asyncpg.Connection:
        opened.append(await asyncpg.connect(database.app_dsn))
        return opened[-1]

    try:
        await admin.execute(EMAIL_TABLE)
        await apply_mapping(admin, EMAILS, grant_to="app")
        async with PostgresDatabase(connect, EMAILS) as emails:
            lease = await emails.start_session(capacity=10, ttl=30)
            (lost,) = [connection.get_server_pid() for connection in opened]
            async with locker.transaction():
                await locker.execute("LOCK TABLE public.email")
                call = asyncio.create_task(emails.get_work(lease, limit=1))
                while not await admin.fetchval(
                    "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1", lost
                ):
                    await asyncio.sleep(0.01)
                opened[0]._transport.abort()
                with pytest.raises(DatabaseError):
                    await call
                assert lost in await backends(admin, "%get_work%")
                await emails.start_session(capacity=10, ttl=30)  # any call: before it the backend is ended
                async with asyncio.timeout(1):
                    while lost in await backends(admin, "%"):
                        await asyncio.sleep(0.01)
    finally:
        await locker.close()
        await admin.close()


@pytest.mark.fault("N1")
async def test_where_a_role_may_not_see_who_is_connected_the_next_call_is_made_all_the_same(database) -> None:
    admin = await asyncpg.connect(database.admin_dsn)
    opened: list[asyncpg.Connection] = []

    async def connect() -> asyncpg.Connection:
        opened.append(await asyncpg.connect(database.app_dsn))
        return opened[-1]

    try:
        await admin.execute(EMAIL_TABLE)
        await apply_mapping(admin, EMAILS, grant_to="app")
        await admin.execute("REVOKE SELECT ON pg_catalog.pg_stat_activity FROM PUBLIC")
        async with PostgresDatabase(connect, EMAILS) as emails:
            lease = await emails.start_session(capacity=10, ttl=30)
            await add_emails(admin, 1)
            call = asyncio.create_task(emails.get_work(lease, limit=1))
            await asyncio.sleep(0)
            opened[0]._transport.abort()
            with pytest.raises(DatabaseError):
                await call
            assert len((await emails.get_work(lease, limit=1)).tasks) == 1
    finally:
        await admin.close()


@pytest.mark.fault("N2")
async def test_who_is_cancelled_in_a_transaction_that_gets_no_answer_ends_at_once(database) -> None:
    """A ROLLBACK would wait for its answer for as long as the network takes to give up: its connection is ended instead."""
    admin = await asyncpg.connect(database.admin_dsn)
    in_transaction = asyncio.Event()
    took: list[float] = []

    async def send(task) -> None:
        clock = asyncio.get_running_loop().time
        try:
            async with task.transaction():
                in_transaction.set()
                try:
                    await asyncio.sleep(60)
                finally:
                    cancelled = clock()
        finally:
            took.append(clock() - cancelled)

    try:
        await admin.execute(EMAIL_TABLE)
        await apply_mapping(admin, EMAILS, grant_to="app")
        await add_emails(admin, 1)
        settings = Settings(
            start_jitter=0, drain_timeout=0, cancel_grace=20, call_timeout=1, shutdown_timeout=1, lease_ttl=60
        )
        async with (
            asyncio.timeout(40),
            proxy(database.app_dsn) as hole,
            PostgresDatabase(hole.dsn, EMAILS, listen=False) as emails,
            Runner(emails, each(send), settings),
        ):
            await in_transaction.wait()
            hole.swallow()
        assert took[0] < 5
    finally:
        await admin.close()
