"""docs/how-to/shards.md: its group does the tasks of two databases, takes one out and in, and follows one that moves."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from typing import Any

import asyncpg
import pytest

from session_lock import PostgresDatabase
from session_lock.moving import BETWEEN
from tests.conftest import APP_ROLE, TestDatabase
from tests.docs.pages import Page
from tests.support import apply_mapping

ALL_SENT = "SELECT NOT EXISTS (SELECT FROM mail WHERE sent_at IS NULL)"


@pytest.fixture
def page() -> Page:
    page = Page("shards.md")
    for part in ("def make_group(", "def shard_of(", "async def take_in(", "class Whereabouts:"):
        page.run(holding=part)
    assert page.done
    return page


async def until_sent(*admins: asyncpg.Connection) -> None:
    async with asyncio.timeout(20):
        for admin in admins:
            while not await admin.fetchval(ALL_SENT):
                await asyncio.sleep(0.02)


async def test_the_group_of_the_page(database: TestDatabase, elsewhere: TestDatabase, page: Page) -> None:
    sent: list[str] = []
    places = {"one": database, "two": elsewhere}
    admins = {}
    for name, each in places.items():
        admins[name] = admin = await asyncpg.connect(each.admin_dsn)
        await admin.execute(re.search(r"# (CREATE TABLE .*)", page.blocks[0])[1])
        await apply_mapping(admin, page["mails"], grant_to=APP_ROLE)

    async def insert(*tenants: str, at: str | None = None) -> None:
        for tenant in tenants:
            name = at or page["shard_of"](tenant, list(places))
            await admins[name].execute("INSERT INTO mail (tenant) VALUES ($1)", tenant)

    async def send(task: Any) -> None:
        sent.append(task.data["tenant"])

    tenants = [f"tenant {number}" for number in range(40)]
    await insert(*tenants)
    databases = {name: PostgresDatabase(each.app_dsn, page["mails"]) for name, each in places.items()}
    async with page["make_group"](databases, send) as group:
        await until_sent(*admins.values())
        assert sorted(sent) == sorted(tenants)
        one, _ = group._runners
        assert one.name == "mail at one"
        await page["take_out"](group, one, databases["one"])
        await insert("late", at="one")
        await insert("also", at="two")
        await until_sent(admins["two"])
        assert not await admins["one"].fetchval(ALL_SENT)
        back = PostgresDatabase(places["one"].app_dsn, page["mails"])
        await page["take_in"](group, "one", back, send)
        await until_sent(*admins.values())
        group.wake()
    await back.close()
    await databases["two"].close()

    # And one that moves.
    whereabouts = page["Whereabouts"](places["one"].app_dsn)
    old = whereabouts.database
    async with page["make_group"]({"one": whereabouts}, send):
        await insert("here", at="one")
        await until_sent(admins["one"])
        whereabouts.move(places["two"].app_dsn)
        await insert("there", at="two")
        await until_sent(admins["two"])
        assert await admins["one"].fetchval("SELECT bool_and(ended_at IS NOT NULL) FROM session_lock.session")
    await old.close()
    await whereabouts.database.close()
    for admin in admins.values():
        await admin.close()
    assert sent.count("there") == sent.count("here") == 1


def test_where_rows_go(page: Page) -> None:
    shard_of, names = page["shard_of"], ["a", "b", "c"]
    tenants = [f"tenant {number}" for number in range(3000)]
    before = {tenant: shard_of(tenant, names) for tenant in tenants}
    assert all(count > 900 for count in Counter(before.values()).values())
    after = {tenant: shard_of(tenant, [*names, "d"]) for tenant in tenants}
    assert {after[tenant] for tenant in tenants if after[tenant] != before[tenant]} == {"d"}


def test_the_numbers_of_the_page(page: Page) -> None:
    assert BETWEEN == 1
    assert "within a second when the database does not answer" in page.text
