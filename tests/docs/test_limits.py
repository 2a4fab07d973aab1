"""docs/how-to/limits.md: its mappings are installed and keep to what they say, its commands exist, its numbers are the library's own."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import asyncpg
import pytest

from session_lock import PostgresDatabase, Runner, Settings, each
from session_lock.cli import main
from session_lock.migrations import check
from session_lock.testing import run_virtual
from tests.benchmarks.limits import KINDS
from tests.conftest import APP_ROLE, TestDatabase
from tests.docs.pages import Page
from tests.support import apply_mapping

HOLDING = ("# CREATE TABLE sync", "at_once =", "in_order =", "at_a_rate =", "fair =", "def make_database(")


@pytest.fixture
def page() -> Page:
    page = Page("limits.md")
    for part in HOLDING:
        page.run(holding=part)
    assert page.done
    return page


@pytest.mark.parametrize(
    ("name", "claimed"),
    [("at_once", "aabb"), ("in_order", "ab"), ("at_a_rate", "aaaaaaaaaabb"), ("fair", "aaaaaaaaaaaaaabb")],
)
async def test_what_the_page_declares_is_what_is_claimed(
    database: TestDatabase, page: Page, name: str, claimed: str
) -> None:
    admin = await asyncpg.connect(database.admin_dsn)
    await admin.execute(re.search(r"# (CREATE TABLE .*)", page.blocks[0])[1])
    await apply_mapping(admin, page[name], grant_to=APP_ROLE)
    await admin.execute(
        "INSERT INTO sync (tenant) SELECT 'a' FROM generate_series(1, 14) UNION ALL VALUES ('b'), ('b')"
    )
    assert [each for each in await check(admin, page[name]) if not each.note] == []
    async with PostgresDatabase(database.app_dsn, page[name]) as tasks:
        lease = await tasks.start_session(capacity=100, ttl=30, label="", app_version="")
        work = await tasks.get_work(lease, limit=100)
        assert sorted(task.data["tenant"] for task in work.tasks) == [*claimed]
    await admin.close()


def test_the_database_for_tests(page: Page) -> None:
    database = page["make_database"]({key: {"tenant": "a"} for key in range(6)})
    running: set[int] = set()
    most = []

    async def tasker(task):
        running.add(task.key)
        most.append(len(running))
        await asyncio.sleep(1)
        running.remove(task.key)

    async def run() -> None:
        runner = Runner(database, each(tasker), Settings(start_jitter=0))
        running_runner = asyncio.create_task(runner.run())
        while database.pending:
            await asyncio.sleep(0.5)
        runner.stop()
        await running_runner

    run_virtual(run())
    assert max(most) == 2


async def test_the_commands(
    page: Page, database: TestDatabase, write_jobs: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jobs("\n".join(page.blocks))
    monkeypatch.setenv("DATABASE_URL", database.admin_dsn)
    admin = await asyncpg.connect(database.admin_dsn)
    await admin.execute(re.search(r"# (CREATE TABLE .*)", page.blocks[0])[1])
    await admin.close()
    commands = re.findall(r"^session-lock (.*)", page.text, flags=re.MULTILINE)
    codes = [await asyncio.to_thread(main, command.split()) for command in commands]
    assert codes == [1, 0]
    assert await asyncio.to_thread(main, commands[0].split()) == 0


def test_the_numbers_of_the_page(page: Page) -> None:
    assert f"`lease_ttl` ({Settings().lease_ttl:g} s)" in page.text
    assert f"at their next poll ({Settings().poll_interval:g} s)" in page.text
    for kind in KINDS:
        assert f"| `{kind}` |" in page.text or kind == "no limits"
