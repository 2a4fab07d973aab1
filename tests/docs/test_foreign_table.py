"""docs/how-to/foreign-table.md: each sale gets its invoice, one that came to be seen late too, and nothing is added to the table of the others."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from session_lock.cli import main
from session_lock.schema import source
from tests.conftest import APP_ROLE, TestDatabase
from tests.docs.pages import Page
from tests.duties.conftest import PostgresGroup

PAGE = Page("foreign-table.md")
TABLES, RIGHTS = re.findall(r"^```sql\n(.*?)^```$", PAGE.text, flags=re.MULTILINE | re.DOTALL)
SHAPE = "SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'shop.sale'::regclass AND attnum > 0"


@pytest.fixture
async def page(
    database: TestDatabase, write_jobs: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Page]:
    """Tables, rights and mappings as the page makes them: yours by a role that may do nothing with theirs."""
    page = Page("foreign-table.md")
    page.run(holding="COPY_NEW =")
    page.run(holding="def runners(")
    assert page.done
    write_jobs("\n".join(page.blocks))
    admin = await asyncpg.connect(database.admin_dsn)
    await admin.execute(TABLES)
    await admin.execute(RIGHTS.replace("myservice", APP_ROLE))
    await admin.close()
    monkeypatch.setenv("DATABASE_URL", database.admin_dsn)
    for command in re.findall(r"^session-lock (.*)$", page.text, flags=re.MULTILINE):
        assert await asyncio.to_thread(main, command.replace("myservice", APP_ROLE).split()) == 0
    yield page


@pytest.fixture
async def admin(database: TestDatabase, page: Page) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.admin_dsn)
    yield connection
    await connection.close()


async def sell(connection: asyncpg.Connection, count: int = 1) -> list[int]:
    rows = await connection.fetch(
        "INSERT INTO shop.sale (amount) SELECT g FROM generate_series(1, $1) AS g RETURNING id", count
    )
    return [row["id"] for row in rows]


async def until(connection: asyncpg.Connection, condition: str) -> None:
    async with asyncio.timeout(20):
        while not await connection.fetchval(f"SELECT {condition}"):
            await asyncio.sleep(0.05)


async def copied(connection: asyncpg.Connection) -> list[int]:
    return [row["sale"] for row in await connection.fetch("SELECT sale FROM invoicing ORDER BY sale")]


async def test_each_sale_gets_its_invoice(
    database: TestDatabase, page: Page, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await admin.fetchval(SHAPE)
    sold = await sell(admin, 5)
    clock = PostgresGroup(admin, database.app_dsn)
    await clock.at((datetime.now(UTC) + timedelta(hours=1)).replace(second=45))  # the sales are due as well
    monkeypatch.setenv("DATABASE_URL", database.app_dsn)
    async with page["runners"]() as group, group:
        planned = "FROM session_lock.duty_run WHERE name = 'copy-sales'"
        await until(admin, f"EXISTS (SELECT {planned})")
        await clock.at(await admin.fetchval(f"SELECT min(due_at) {planned}"))
        await until(admin, "count(*) = 5 FROM invoice")
        # One is deleted before its turn: it is finished, and has no invoice.
        await admin.execute("INSERT INTO invoicing VALUES (99)")
        group.wake()
        await until(admin, "count(*) = 6 FROM invoicing WHERE done_at IS NOT NULL")
    assert await copied(admin) == [*sold, 99]
    wrong = await admin.fetch(
        "SELECT FROM shop.sale AS s FULL JOIN invoice AS i ON i.sale = s.id AND i.amount = s.amount"
        " WHERE s.id IS NULL OR i.sale IS NULL OR s.invoiced_at IS NULL"
    )
    assert wrong == []
    assert await admin.fetchval(SHAPE) == before == ["id", "amount", "invoiced_at"]
    assert await admin.fetchval("SELECT count(*) FROM pg_index WHERE indrelid = 'shop.sale'::regclass") == 1
    assert await admin.fetchval("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'shop.sale'::regclass") == 0


async def test_a_sale_that_is_seen_late_is_copied(
    database: TestDatabase, page: Page, admin: asyncpg.Connection
) -> None:
    service, theirs = [await asyncpg.connect(dsn) for dsn in (database.app_dsn, database.admin_dsn)]
    try:
        late = theirs.transaction()
        await late.start()
        (early,) = await sell(theirs)
        (later,) = await sell(admin)
        assert early < later
        await service.execute(page["COPY_NEW"])
        assert await copied(admin) == [later]
        await late.commit()
        await service.execute(page["COPY_NEW"])
        assert await copied(admin) == [early, later]

        # Further below the watermark it is the nightly comparison that finds it.
        await admin.execute("DELETE FROM invoicing WHERE sale = $1", early)
        await admin.execute("INSERT INTO invoicing VALUES ($1)", later + 2000)
        await service.execute(page["COPY_NEW"])
        assert early not in await copied(admin)
        await service.execute(page["COPY_MISSED"])
        assert await copied(admin) == [early, later, later + 2000]
    finally:
        await service.close()
        await theirs.close()


async def test_a_backlog_comes_in_portions(
    database: TestDatabase, page: Page, admin: asyncpg.Connection
) -> None:
    sold = await sell(admin, 12_000)
    service = await asyncpg.connect(database.app_dsn)
    try:
        for number in (10_000, 12_000):
            await service.execute(page["COPY_NEW"])
            assert await copied(admin) == sold[:number]
    finally:
        await service.close()


async def test_it_wakes_where_it_has_copied_something(
    database: TestDatabase, page: Page, admin: asyncpg.Connection
) -> None:
    heard: list[str] = []
    await admin.add_listener("session_lock", lambda *notice: heard.append(notice[-1]))
    service = await asyncpg.connect(database.app_dsn)
    try:
        await sell(admin, 3)
        for _ in range(2):  # nothing is new the second time
            await service.execute(page["COPY_NEW"])
        await service.execute("SELECT session_lock.wake('last')")
        async with asyncio.timeout(10):
            while "last" not in heard:
                await asyncio.sleep(0.01)
        assert heard == ["invoicing", "last"]
    finally:
        await service.close()


def test_the_numbers() -> None:
    (days,) = re.findall(r"interval '(\d+) days'", source("duties.alwaysup.sql"))
    assert f"keeps them for {days} days" in " ".join(PAGE.text.split())
    below, portion = (
        int(re.search(pattern, PAGE.text)[1]) for pattern in (r"0\) - (\d+) FROM", r"LIMIT (\d+)")
    )
    assert f"That is what the {below} are for" in PAGE.text
    assert below < portion
