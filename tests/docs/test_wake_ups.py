"""docs/how-to/wake-ups.md: its functions wake, its commands print what they say, its numbers are the library's own."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import asyncpg
import pytest

from session_lock import PostgresDatabase, Runner, Settings, each, listener
from session_lock.cli import main
from tests.conftest import APP_ROLE, TestDatabase
from tests.docs.pages import Page
from tests.support import apply_mapping


async def test_everything_that_the_page_does_starts_a_task(
    database: TestDatabase,
    write_jobs: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = Page("wake-ups.md")
    assert "within 9 s" in page.text
    assert 1.1 * listener.PROBE_INTERVAL + listener.TIMEOUT <= 9
    page.run(holding="TaskTable(")
    write_jobs(page.blocks[0])
    monkeypatch.setenv("DATABASE_URL", database.admin_dsn)
    admin = await asyncpg.connect(database.admin_dsn)
    await admin.execute(re.search(r"# (CREATE TABLE .*)", page.blocks[0])[1])
    await apply_mapping(admin, page["mails"], grant_to=APP_ROLE)
    started: asyncio.Queue[str] = asyncio.Queue()

    async def tasker(task):
        started.put_nowait(task.data["address"])

    async def is_started(address: str) -> bool:
        async with asyncio.timeout(10):
            return await started.get() == address

    async def printed(command: str) -> str:
        capsys.readouterr()
        assert await asyncio.to_thread(main, command.split()[1:]) == 0
        return capsys.readouterr().out

    hourly = Settings(poll_interval=3600, start_jitter=0)
    emails = PostgresDatabase(database.app_dsn, page["mails"])
    heard = asyncio.Event()
    try:
        async with emails.listening(heard.set), Runner(emails, each(tasker), hourly):
            await heard.wait()
            page.run(holding="async def post(")
            await page["post"](admin, "called")
            assert await is_started("called")
            page.run(holding="async def post_later(")
            await page["post_later"](admin, "later", 0.2)
            assert await is_started("later")

            await admin.execute(
                "CREATE ROLE frontend_of_the_page; GRANT INSERT ON mail TO frontend_of_the_page"
            )
            grants, always = re.findall(r"^```sql\n(.*?)^```$", page.text, flags=re.MULTILINE | re.DOTALL)
            await admin.execute(grants.replace(" frontend;", " frontend_of_the_page;"))
            await admin.execute("SET ROLE frontend_of_the_page")
            await page["post"](admin, "of another role")
            await admin.execute("RESET ROLE")
            assert await is_started("of another role")

            install, uninstall, quiet = re.findall(r"^session-lock sql .*$", page.text, flags=re.MULTILINE)
            for command in (install, quiet):
                await admin.execute(await printed(command))
                verdict = await printed("session-lock check jobs:mails")
                assert "is installed as it should be" in verdict
                assert "the trigger" not in verdict
                await admin.execute("INSERT INTO mail (address) VALUES ($1)", command)
                assert await is_started(command)
            triggers = "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'mail'::regclass"
            assert await admin.fetchval(triggers) == 1
            await admin.execute(await printed(uninstall))
            assert await admin.fetchval(triggers) == 0

            await admin.execute(always)
            assert "the trigger" not in await printed("session-lock check jobs:mails")
            await admin.execute("SET session_replication_role = replica")
            await admin.execute("INSERT INTO mail (address) VALUES ('as by replication')")
            await admin.execute("RESET session_replication_role")
            assert await is_started("as by replication")
            await admin.execute("DROP TRIGGER wake_replicated ON mail")
        await emails.close()

        monkeypatch.setenv("POOLER_URL", database.app_dsn)  # what a real pooler does is tried in tests/chaos
        page.run(holding="listen=")
        async with page["database"] as pooled, Runner(pooled, each(tasker), hourly):
            await page["post"](admin, "beside the pooler")
            assert await is_started("beside the pooler")
        assert page.done
    finally:
        await admin.execute("DROP OWNED BY frontend_of_the_page; DROP ROLE frontend_of_the_page")
        await admin.close()


def test_the_numbers() -> None:
    text = Page("wake-ups.md").text
    assert f"`poll_interval` ({Settings().poll_interval:g} s)" in text
    assert f"Every {listener.PROBE_INTERVAL:g} s it sends" in text
    assert f"`{listener.logger.name}`" in text
