"""Through PgBouncer in transaction mode, with two backends for all: everything works, if wake-ups have a way of their own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from session_lock import DatabaseError, PostgresDatabase, Runner, Settings, each, listener
from tests.chaos.pgbouncer import pgbouncer, unnamed
from tests.conftest import APP_ROLE, TestDatabase
from tests.support import EMAIL_TABLE, EMAILS, add_emails, apply_mapping

HOURLY = Settings(
    poll_interval=3600, start_jitter=0, concurrency=8, tasks_per_session=8, keepalive_interval=0.05
)
WITHIN = 10.0


@pytest.fixture
async def admin(database: TestDatabase) -> Any:
    connection = await asyncpg.connect(database.admin_dsn)
    await connection.execute(EMAIL_TABLE)
    await apply_mapping(connection, EMAILS, grant_to=APP_ROLE)
    yield connection
    connection.terminate()


@pytest.fixture
def pooler(database: TestDatabase) -> Iterator[str]:
    with pgbouncer(database.app_dsn) as dsn:
        yield dsn


async def until_finished(admin: asyncpg.Connection, keys: list[int]) -> None:
    async with asyncio.timeout(WITHIN):
        query = "SELECT count(*) FROM public.email WHERE id = ANY ($1) AND sent_at IS NOT NULL"
        while await admin.fetchval(query, keys) < len(keys):
            await asyncio.sleep(0.01)


async def tasker(task: Any) -> None:
    if task.key % 2:
        async with task.transaction() as connection:
            assert await connection.fetchval("SELECT $1::integer", 7) == 7


@pytest.mark.fault("N11")
async def test_everything_works_with_a_direct_way_to_listen(admin, database, pooler, caplog):
    heard = asyncio.Event()
    async with (
        PostgresDatabase(unnamed(pooler), EMAILS, listen=database.app_dsn) as emails,
        emails.listening(heard.set),
        Runner(emails, each(tasker), HOURLY),
        Runner(emails, each(tasker), HOURLY),
    ):
        await heard.wait()
        for _ in range(5):
            keys = await add_emails(admin, 10)
            await admin.execute("SELECT session_lock.wake('email')")
            await until_finished(admin, keys)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.fault("N7", "N11")
async def test_deafness_is_noticed_and_said_and_polling_goes_on(admin, pooler, caplog, monkeypatch):
    monkeypatch.setattr(listener, "ECHO", 0.1)
    often = replace(HOURLY, poll_interval=0.05)
    woken: list[None] = []
    async with (
        PostgresDatabase(unnamed(pooler), EMAILS) as emails,
        emails.listening(lambda: woken.append(None)),
        Runner(emails, each(tasker), often),
    ):
        async with asyncio.timeout(WITHIN):
            while not any(record.name == "session_lock.listener" for record in caplog.records):
                await until_finished(admin, await add_emails(admin, 10))
        await until_finished(admin, await add_emails(admin, 10))
    assert woken == []
    said = caplog.records[0].getMessage()
    assert "transaction pooler" in said
    assert "PostgresDatabase(listen=)" in said


async def test_an_echo_on_the_back_of_the_answer_does_not_count(admin, database, caplog, monkeypatch):
    """With one backend for all it is the listener's own that its probe goes through, and so it is heard; nobody else is."""
    monkeypatch.setattr(listener, "ECHO", 0.1)
    with pgbouncer(database.app_dsn, size=1) as dsn:
        woken: list[None] = []
        async with (
            asyncio.timeout(WITHIN),
            PostgresDatabase(unnamed(dsn), EMAILS) as emails,
            emails.listening(lambda: woken.append(None)),
        ):
            while not caplog.records:
                await asyncio.sleep(0.01)
        assert woken == []
        assert "transaction pooler" in caplog.records[0].getMessage()


@pytest.mark.fault("N11")
async def test_no_call_is_torn_apart(admin, pooler):
    async def one() -> None:
        async with PostgresDatabase(unnamed(pooler), EMAILS, listen=False) as emails:
            lease = await emails.start_session(capacity=1, ttl=30)
            for _ in range(20):
                await emails.bump_session(lease, ttl=30, draining=False)
                await emails.get_work(lease, limit=1)
            await emails.end_session(lease)

    await asyncio.gather(*(one() for _ in range(5)))


@pytest.mark.fault("N11")
async def test_who_gives_a_dsn_is_told_what_to_give_instead(admin, pooler):
    async with PostgresDatabase(pooler, EMAILS, listen=False) as emails:
        with pytest.raises(DatabaseError, match=r"transaction pooler .* statement_cache_size=0.* listen="):
            async with asyncio.timeout(WITHIN):
                while True:  # sooner or later a name meets a backend that does not know it
                    await asyncio.gather(*(emails.start_session(capacity=1, ttl=30) for _ in range(4)))
