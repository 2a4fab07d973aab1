"""A `PostgresDatabase` that was closed opens no connection any more, until it is entered again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from session_lock import DatabaseError, PostgresDatabase, Runner, Settings, each
from tests.conftest import APP_ROLE, TestDatabase
from tests.support import EMAIL_TABLE, EMAILS, apply_mapping

CLOSED = "^the PostgresDatabase of 'email' was closed: call it within its `async with`, or enter that again$"


@pytest.fixture
async def admin(database: TestDatabase) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.admin_dsn)
    await connection.execute(EMAIL_TABLE)
    await apply_mapping(connection, EMAILS, grant_to=APP_ROLE)
    yield connection
    await connection.close()


async def connections(admin: asyncpg.Connection) -> int:
    """Of the database, once those that were ended are gone."""
    for _ in range(100):
        count = await admin.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'session_lock'"
        )
        if count == 0:
            break
        await asyncio.sleep(0.02)
    return int(count)


async def test_a_call_after_it_was_closed_is_refused(
    admin: asyncpg.Connection, database: TestDatabase
) -> None:
    emails = PostgresDatabase(database.app_dsn, EMAILS)
    async with emails:
        lease = await emails.start_session(capacity=1, ttl=30)
    for call in (
        emails.shares,
        lambda: emails.cancel(1),
        lambda: emails.why(1),
        emails.pause,
        lambda: emails.bump_session(lease, ttl=30, draining=False),
    ):
        with pytest.raises(DatabaseError, match=CLOSED) as refused:
            await call()
        assert not refused.value.retryable
    with pytest.raises(DatabaseError, match=CLOSED):
        async with emails.transaction(lease, []):
            pass
    assert await connections(admin) == 0
    async with emails:  # again
        assert len(await emails.shares()) == 1
    assert await connections(admin) == 0
    await emails.close()
    with pytest.raises(DatabaseError, match=CLOSED):
        await emails.shares()


async def test_who_has_entered_it_too_can_go_on(admin: asyncpg.Connection, database: TestDatabase) -> None:
    async with PostgresDatabase(database.app_dsn, EMAILS) as emails:
        async with emails:
            await emails.shares()
        await emails.shares()
    assert await connections(admin) == 0


async def test_a_call_that_is_under_way_may_end_and_leaves_nothing(
    admin: asyncpg.Connection, database: TestDatabase
) -> None:
    emails = PostgresDatabase(database.app_dsn, EMAILS)
    await emails.shares()
    async with admin.transaction():
        await admin.execute("LOCK TABLE session_lock.session")
        call = asyncio.create_task(emails.shares())
        await asyncio.sleep(0.2)
        await emails.close()
    assert await call == []
    assert await connections(admin) == 0


async def test_a_runner_whose_database_is_closed_says_so(
    admin: asyncpg.Connection, database: TestDatabase
) -> None:
    emails = PostgresDatabase(database.app_dsn, EMAILS, listen=False)
    runner = Runner(emails, each(asyncio.sleep), Settings(start_jitter=0, poll_interval=0.05))
    running = asyncio.create_task(runner.run())
    while runner.health().state != "running":  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await emails.close()
    async with asyncio.timeout(10):
        with pytest.raises(DatabaseError, match=CLOSED):
            await running
    assert await connections(admin) == 0
