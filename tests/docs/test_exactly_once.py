"""docs/how-to/exactly-once.md: each of its taskers writes one invoice for each sale, over a pool of its own driver."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack

import asyncpg
import pytest

from session_lock import PostgresDatabase, Runner, Settings
from session_lock.schema import source
from tests.conftest import APP_ROLE, TestDatabase
from tests.contrib.kinds import django_connection, set_up_django
from tests.docs.pages import Page
from tests.support import apply_mapping

BLOCKS = [  # (what it shows, whether its tasker is run)
    ("TaskTable(", False),
    ("asyncpg.create_pool", True),
    ("connection.transaction()", True),
    ("async_sessionmaker", True),
    ("finish_in(session)", True),
    ("AsyncConnectionPool", True),
    ("psycopg.connect", True),
    ("transaction.atomic()", True),
]


async def test_every_tasker_of_the_page(database: TestDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page("exactly-once.md")
    set_up_django()
    monkeypatch.setenv("DATABASE_URL", database.app_dsn)
    admin = await asyncpg.connect(database.admin_dsn)
    for statement in re.findall(r"# (CREATE TABLE .*)", page.blocks[0]):
        await admin.execute(statement)
    await admin.execute(f"GRANT INSERT ON invoice TO {APP_ROLE}")
    sold = 0
    async with AsyncExitStack() as stack:
        for text, runs in BLOCKS:
            page.run(holding=text)
            if not runs:
                await apply_mapping(admin, page["sales"], grant_to=APP_ROLE)
                continue
            if "Pool" in text or "pool" in text:
                await stack.enter_async_context(page["pool"])
            await admin.execute("INSERT INTO sale (amount) SELECT g FROM generate_series(1, 5) AS g")
            sold += 5
            if "atomic" in text:
                in_django = page["write"]

                def write(batch, in_django=in_django):
                    with django_connection(database.app_dsn):
                        in_django(batch)

                page.names["write"] = write
            settings = Settings(batch_size=2, start_jitter=0, poll_interval=0.05)
            async with Runner(page["database"], page["write_invoices"], settings):
                async with asyncio.timeout(10):
                    while await admin.fetchval("SELECT count(*) FROM invoice") < sold:
                        await asyncio.sleep(0.01)
            if "pool=" in page.blocks[BLOCKS.index((text, runs))]:
                stack.push_async_callback(page["database"].close)
        assert page.done
        await page["engine"].dispose()
    wrong = await admin.fetch(
        "SELECT FROM sale AS s FULL JOIN invoice AS i ON i.sale = s.id AND i.amount = s.amount"
        " WHERE s.id IS NULL OR i.sale IS NULL OR s.done_at IS NULL"
    )
    assert wrong == []
    await admin.close()


async def test_what_time_the_transaction_has(database: TestDatabase) -> None:
    """What was left of the lease when it was fenced, and no more when a keepalive has got through."""
    page = Page("exactly-once.md")
    page.run(holding="TaskTable(")
    admin = await asyncpg.connect(database.admin_dsn)
    for statement in re.findall(r"# (CREATE TABLE .*)", page.blocks[0]):
        await admin.execute(statement)
    await apply_mapping(admin, page["sales"], grant_to=APP_ROLE)
    await admin.execute("INSERT INTO sale (amount) VALUES (1)")
    settings = Settings()
    async with PostgresDatabase(database.app_dsn, page["sales"]) as tasks:
        lease = await tasks.start_session(capacity=1, ttl=settings.lease_ttl)
        claims = [task.claim for task in (await tasks.get_work(lease, limit=1)).tasks]
        async with tasks.transaction(lease, claims) as connection:
            await tasks.bump_session(lease, ttl=2 * settings.lease_ttl, draining=False)
            limits = await connection.fetch(
                "SELECT name, setting::float / 1000 AS seconds FROM pg_settings"
                " WHERE name IN ('idle_in_transaction_session_timeout', 'transaction_timeout')"
            )
            version = connection.get_server_version().major
    await admin.close()
    assert len(limits) == (2 if version >= 17 else 1)  # "from PostgreSQL 17 on"
    assert all(settings.lease_ttl - 5 < limit["seconds"] <= settings.lease_ttl for limit in limits)
    least = settings.lease_ttl - 1.1 * settings.keepalive_interval  # a keepalive is late by a tenth at most
    assert f"some {least:.0f} to {settings.lease_ttl:g} s with the\ndefaults" in page.text


def test_the_function_is_as_it_says() -> None:
    page = Page("exactly-once.md")
    (call,) = re.findall(r"finish_in_sale_\w+\((.*?)^\);", page.text, flags=re.MULTILINE | re.DOTALL)
    (signature,) = re.findall(
        r"FUNCTION session_lock\.finish_in__set__\(\n(.*?)\n\)", source("tasks.alwaysup.sql")
    )
    assert re.findall(r"^  (\w+) +=>", call, flags=re.MULTILINE) == re.findall(r"(p_\w+) ", signature)
    raised = set(
        re.findall(r"ERRCODE = '(SL\d+)'", source("tasks.alwaysup.sql") + source("sessions.alwaysup.sql"))
    )
    assert set(re.findall(r"SL\d+", page.text)) == raised - {"SL004"}  # a copy's, which has no sessions
