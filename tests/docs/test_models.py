"""docs/how-to/models.md: the mappings of both layers, and their taskers, on tables that the layers themselves describe."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from session_lock import PostgresDatabase, Runner, Settings, TaskTable, each
from session_lock.testing import run_until_idle
from tests.conftest import APP_ROLE, TestDatabase
from tests.contrib.kinds import django_connection, django_create, set_up_django, url
from tests.docs.pages import Page
from tests.support import apply_mapping

SETTINGS = Settings(batch_size=2, start_jitter=0, poll_interval=0.05)


async def all_written(admin: asyncpg.Connection, query: str) -> None:
    async with asyncio.timeout(20):
        while await admin.fetchval(query) < 5:
            await asyncio.sleep(0.02)


async def test_both_taskers_of_the_page(database: TestDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page("models.md")
    set_up_django()
    monkeypatch.setenv("DATABASE_URL", database.app_dsn)
    admin = await asyncpg.connect(database.admin_dsn)
    for statement in re.findall(r"# (CREATE TABLE .*)", page.blocks[0]):
        await admin.execute(statement)

    page.run(holding="DeclarativeBase")
    await apply_mapping(admin, page["mails"], grant_to=APP_ROLE)
    await admin.execute(f"GRANT INSERT ON receipt TO {APP_ROLE}")
    await admin.execute("INSERT INTO mail (address) SELECT 'a' || g FROM generate_series(1, 5) AS g")
    async with page["database"], Runner(page["database"], page["send"], SETTINGS):
        await all_written(admin, "SELECT count(*) FROM receipt")
    await page["engine"].dispose()
    wrong = "SELECT FROM mail AS m FULL JOIN receipt AS r ON r.mail = m.id AND r.address = m.address WHERE {}"
    assert await admin.fetch(wrong.format("m.id IS NULL OR r.mail IS NULL OR m.sent_at IS NULL")) == []

    mail, seen = page["Mail"], []
    columns = TaskTable.from_model(
        mail, pending=mail.sent.is_(None), finish={mail.sent: sqlalchemy.func.now()}, columns=[mail.address, mail.sent]
    )  # fmt: skip
    await apply_mapping(admin, columns, grant_to=APP_ROLE)
    await admin.execute("INSERT INTO mail (address) VALUES ('last')")

    async def see(task):
        seen.append(task.data)

    async with PostgresDatabase(database.app_dsn, columns, decode=mail) as mails:
        assert await run_until_idle(mails, each(see), SETTINGS) == 1
    assert await admin.fetchval("SELECT count(*) FROM mail WHERE sent_at IS NULL") == 0
    assert [(type(data), data.address, data.sent) for data in seen] == [(mail, "last", None)]

    page.run(holding="models.Model")
    await asyncio.to_thread(django_create, database.admin_dsn, page["Sale"], page["Invoice"])
    await apply_mapping(admin, page["sales"], grant_to=APP_ROLE)
    await admin.execute(f"GRANT INSERT ON shop_invoice TO {APP_ROLE}")
    await admin.execute("INSERT INTO shop_sale (amount) SELECT g FROM generate_series(1, 5) AS g")

    def write(batch):
        with django_connection(database.app_dsn):
            return page["write_invoices"](batch)

    async with PostgresDatabase(database.app_dsn, page["sales"]) as sales, Runner(sales, write, SETTINGS):
        await all_written(admin, "SELECT count(*) FROM shop_invoice")
    wrong = "SELECT FROM shop_sale AS s FULL JOIN shop_invoice AS i ON i.sale_id = s.id AND i.amount = s.amount WHERE {}"
    assert await admin.fetch(wrong.format("s.id IS NULL OR i.sale_id IS NULL OR s.done_at IS NULL")) == []

    page.run(holding="async def unsent")
    engine = create_async_engine(url(database.admin_dsn, "psycopg"))  # which cannot read infinity
    async with AsyncSession(engine) as session, session.begin():
        await page["add_for_later"](session, page["Mail"](address="later"), 3600)
        await session.execute(
            sqlalchemy.text("INSERT INTO mail (address, available_at) VALUES ('parked', 'infinity')")
        )
        left = {mail.address: due_at for mail, due_at in await page["unsent"](session)}
    await engine.dispose()
    assert left["parked"] is None
    assert left["later"] > datetime.now(UTC) + timedelta(minutes=59)

    page.run(holding="def unsold")
    await admin.execute("INSERT INTO shop_sale (amount, available_at) VALUES (7, 'infinity')")

    def read():
        with django_connection(database.admin_dsn):
            return [(sale.amount, sale.due_at) for sale in page["unsold"]()]

    assert await asyncio.to_thread(read) == [(7, None)]
    assert page.done
    await admin.close()
