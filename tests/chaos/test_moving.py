"""`DatabaseFinder` on real servers: a database that moves, one that dies and has moved, and one that fails over."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from session_lock import PostgresDatabase, Runner, Settings, each
from session_lock.embedded import Server, temp_postgres
from session_lock.table import ClaimColumns
from tests.chaos.standby import make_synchronous, standby_of
from tests.conftest import APP_ROLE, TestDatabase
from tests.support import EMAIL_TABLE, EMAILS, add_emails, apply_mapping

SETTINGS = Settings(
    prefetch_time=math.inf,
    start_jitter=0, poll_interval=0.2, keepalive_interval=0.5, call_timeout=1, cancel_grace=0.5, guard=0.2, lease_ttl=20,
    concurrency=3, tasks_per_session=9, drain_timeout=8, shutdown_timeout=1,
)  # fmt: skip
EFFECTS = "CREATE TABLE public.effect (task bigint NOT NULL)"


async def prepared(dsn: str, tasks: int, *, role: str | None = None) -> asyncpg.Connection:
    """The table, its mapping, and so many tasks; returns the connection of a superuser."""
    admin = await asyncpg.connect(dsn)
    await admin.execute(f"{EMAIL_TABLE}; {EFFECTS}")
    await apply_mapping(admin, EMAILS, grant_to=role)
    await add_emails(admin, tasks)
    return admin


async def until(admin: asyncpg.Connection, condition: str) -> None:
    async with asyncio.timeout(30):
        while not await admin.fetchval(f"SELECT {condition}"):
            await asyncio.sleep(0.02)


ALL_DONE = "NOT EXISTS (SELECT FROM email WHERE sent_at IS NULL)"


async def test_a_database_that_moves_while_all_slots_are_busy(
    database: TestDatabase, elsewhere: TestDatabase
) -> None:
    here = await prepared(database.admin_dsn, 30, role=APP_ROLE)
    there = await prepared(elsewhere.admin_dsn, 20, role=APP_ROLE)
    gate, runs = asyncio.Event(), list[tuple[str, int]]()
    async with (
        PostgresDatabase(database.app_dsn, EMAILS) as old,
        PostgresDatabase(elsewhere.app_dsn, EMAILS) as new,
    ):
        current: Any = old

        async def find() -> Any:
            return current

        async def send(task: Any) -> None:
            runs.append(("there" if gate.is_set() else "here", task.key))
            await gate.wait()

        async with Runner(find, each(send), SETTINGS):
            await until(here, "count(*) = 9 FROM email WHERE session_id IS NOT NULL")
            current = new
            # Those that were not begun go back at once, while the others run on.
            await until(here, "count(*) = 3 FROM email WHERE session_id IS NOT NULL")
            assert len(runs) == 3
            gate.set()
            await until(there, ALL_DONE)
            states = await here.fetch(
                "SELECT sent_at IS NOT NULL AS sent, session_id, attempts, count(*) FROM email GROUP BY 1, 2, 3"
            )
            assert sorted(map(tuple, states)) == [(False, None, 0, 27), (True, None, 1, 3)]
            assert await here.fetchval("SELECT bool_and(ended_at IS NOT NULL) FROM session_lock.session")
        assert Counter(where for where, _ in runs) == {"here": 3, "there": 20}
        assert await here.fetchval("SELECT count(*) FROM session_lock.session") == 1
        assert await there.fetchval("SELECT count(*) FROM session_lock.session") == 1
    await here.close()
    await there.close()


async def test_the_same_name_in_another_schema_is_another_place(database: TestDatabase) -> None:
    admin = await prepared(database.admin_dsn, 1, role=APP_ROLE)
    columns = ClaimColumns(session_id="s2", claim_token="t2", attempts="a2", available_at="d2")
    theirs = replace(EMAILS, schema="other", claim_columns=columns)
    await apply_mapping(admin, theirs, grant_to=APP_ROLE)
    async with (
        PostgresDatabase(database.app_dsn, EMAILS) as one,
        PostgresDatabase(database.app_dsn, theirs) as two,
        PostgresDatabase(lambda: asyncpg.connect(database.app_dsn), EMAILS) as again,
    ):
        assert await one.identity() != await two.identity()
        assert await one.identity() == await again.identity()
    await admin.close()


async def test_a_server_that_dies_and_whose_database_is_elsewhere(database: TestDatabase) -> None:
    """What ran when it died is run again there when it is back; nothing of it is run or recorded here."""
    there = await prepared(database.admin_dsn, 10, role=APP_ROLE)
    await there.execute("UPDATE email SET body = 'there'")

    async def with_server(server: Server) -> None:
        here = await prepared(server.dsn, 10)
        await here.execute("UPDATE email SET body = 'here'")
        gate, runs = asyncio.Event(), list[str]()
        async with (
            PostgresDatabase(server.dsn, EMAILS) as old,
            PostgresDatabase(database.app_dsn, EMAILS) as new,
        ):
            current: Any = old

            async def find() -> Any:
                return current

            async def send(task: Any) -> None:
                runs.append(task.data["body"])
                await gate.wait()

            async with Runner(find, each(send), SETTINGS):
                await until(here, "count(*) = 9 FROM email WHERE session_id IS NOT NULL")
                await asyncio.to_thread(server.stop, "kill")
                current = new
                gate.set()
                await until(there, ALL_DONE)
            assert runs.count("there") == 10
            assert "here" not in runs[runs.index("there") :]
            await asyncio.to_thread(server.start)
            await here.close()
            here = await asyncpg.connect(server.dsn)
            assert await here.fetchval("SELECT count(*) FROM email WHERE sent_at IS NOT NULL") == 0
            await here.execute("UPDATE session_lock.session SET expires_at = clock_timestamp()")
            async with Runner(old, each(send), SETTINGS):
                await until(here, ALL_DONE)
            assert await here.fetchval("SELECT max(attempts) FROM email") == 2
            assert await there.fetchval("SELECT max(attempts) FROM email") == 1
            await here.close()

    with temp_postgres() as server:
        await with_server(server)
    await there.close()


@pytest.mark.fault("D2")
async def test_a_fail_over_to_a_standby_that_is_promoted() -> None:
    """The session goes on at the new primary, and each effect is there once."""

    async def with_standby(server: Server, standby_dsn: str) -> None:
        admin = await asyncpg.connect(server.dsn)
        await make_synchronous(admin)
        standby = await asyncpg.connect(standby_dsn)
        runs = Counter[int]()
        async with PostgresDatabase(server.dsn, EMAILS) as old, PostgresDatabase(standby_dsn, EMAILS) as new:
            current: Any = old

            async def find() -> Any:
                return current

            async def send(task: Any) -> None:
                runs[task.key] += 1
                await asyncio.sleep(0.15)
                async with task.transaction() as connection:
                    await connection.execute("INSERT INTO effect VALUES ($1)", task.key)

            async with Runner(find, each(send), SETTINGS) as runner:
                await until(admin, "count(*) > 5 FROM email WHERE sent_at IS NOT NULL")
                await asyncio.to_thread(server.stop, "kill")
                current = new  # a standby as yet
                await asyncio.sleep(0.7)
                assert await standby.fetchval("SELECT pg_promote()")
                await until(standby, ALL_DONE)
                assert runner.ready
            tasks, effects, sessions = await standby.fetchrow(
                "SELECT (SELECT count(*) FROM email), (SELECT count(DISTINCT task) FROM effect) * 1000 + (SELECT count(*) FROM effect),"
                " (SELECT count(*) FROM session_lock.session)"
            )
            assert (tasks, effects, sessions, len(runs)) == (40, 40040, 1, 40)
            assert await standby.fetchval("SELECT bool_and(ended_at IS NOT NULL) FROM session_lock.session")
        await standby.close()
        await admin.close()

    with temp_postgres() as server:
        admin = await prepared(server.dsn, 40)
        await admin.close()
        with standby_of(server) as standby_dsn:
            await with_standby(server, standby_dsn)
