"""docs/how-to/pgbouncer.md, through a real one."""

from __future__ import annotations

import asyncio
import logging

import asyncpg
import pytest

from session_lock import Runner, Settings, each
from session_lock.migrations import install
from tests.chaos.pgbouncer import pgbouncer
from tests.conftest import APP_ROLE
from tests.docs.pages import Page

MANY = 50


@pytest.mark.parametrize("hears", [True, False])
async def test_mails_are_sent_through_a_pooler(database, monkeypatch, caplog, hears):
    page = Page("pgbouncer.md")
    page.run(holding="statement_cache_size=0")
    assert page.done
    admin = await asyncpg.connect(database.admin_dsn)
    await admin.execute(
        "CREATE TABLE mail (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, address text NOT NULL, sent_at timestamptz)"
    )
    await install(admin, page["mails"], grant_to=APP_ROLE)
    sent: list[str] = []

    async def send(task):
        async with task.transaction() as connection:
            assert await connection.fetchval("SELECT $1::integer", 7) == 7
        sent.append(task.data["address"])

    with pgbouncer(database.app_dsn) as pooler:
        monkeypatch.setenv("POOLER_URL", pooler)
        monkeypatch.setenv("DATABASE_URL", database.app_dsn)
        settings = Settings(start_jitter=0, poll_interval=3600 if hears else 0.1)
        async with page["make_database"]() as tasks, Runner(tasks, each(send), settings):
            while await admin.fetchval("SELECT count(*) FROM session_lock.session") == 0:
                await asyncio.sleep(0.01)
            async with admin.transaction():
                await admin.execute(
                    f"INSERT INTO mail (address) SELECT 'a' || i FROM generate_series(1, {MANY}) AS i"
                )
                if hears:
                    await admin.execute("SELECT session_lock.wake('mail')")
            async with asyncio.timeout(30):
                while await admin.fetchval("SELECT count(*) FROM mail WHERE sent_at IS NOT NULL") < MANY:
                    await asyncio.sleep(0.01)
    await admin.close()
    assert sorted(sent) == sorted(f"a{i}" for i in range(1, MANY + 1))
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING] == []
