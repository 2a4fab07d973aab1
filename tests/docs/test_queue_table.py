"""docs/how-to/queue-table.md: its commands make the table, its functions add to it, its tasker does what was added."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Callable

import asyncpg
import pytest

from session_lock import Runner, Settings
from session_lock.cli import main
from session_lock.enqueuing import COPY_FROM
from session_lock.queue_table import SHAPE
from tests.conftest import APP_ROLE, TestDatabase
from tests.contrib.kinds import django_connection, set_up_django
from tests.docs.pages import Page


async def test_everything_that_the_page_does(
    database: TestDatabase,
    write_jobs: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = Page("queue-table.md")
    set_up_django()
    page.run(holding='queue("jobs")')
    write_jobs(page.blocks[0])
    monkeypatch.setenv("DATABASE_URL", database.admin_dsn)
    admin = await asyncpg.connect(database.admin_dsn)

    async def run(command: str) -> str:
        words = [APP_ROLE if word == "myservice" else word for word in shlex.split(command)[1:]]
        assert await asyncio.to_thread(main, words) == 0, capsys.readouterr()
        return capsys.readouterr().out

    shell = re.findall(r"^session-lock .*$", page.text, flags=re.MULTILINE)
    inline = re.findall(r"`(session-lock [^`]*)`", page.text)
    install, check, script = shell
    always, index, due, down = [each for each in inline if "jobs:jobs" in each]
    try:
        async with admin.transaction():  # as a migration tool would
            await admin.execute(await run(script))
        assert "is installed as it should be" in await run(check)
        await admin.execute(await run(always))
        for command in (index, due):
            await admin.execute(await run(command))
        assert "Everything was there already" in await run(install)
        await admin.execute("CREATE TABLE account (address text)")
        await admin.execute(f"GRANT INSERT ON account TO {APP_ROLE}")

        service = await asyncpg.connect(database.app_dsn)
        page.run(holding="def sign_up(")
        await page["sign_up"](service, "ann")
        page.run(holding="def remind(")
        key, duplicate = await page["remind"](service, "ann")
        assert not duplicate
        assert await page["remind"](service, "ann") == (key, True)
        page.run(holding="def send_newsletter(")
        results = await page["send_newsletter"](service, [f"a{i}" for i in range(COPY_FROM)])
        assert len({each.key for each in results}) == COPY_FROM + 1
        page.run(holding="enqueue_sync(")

        def view() -> int:
            with django_connection(database.app_dsn):
                return page["view"]("bob")

        assert await asyncio.to_thread(view) == results[-1].key + 1
        await service.close()

        monkeypatch.setenv("DATABASE_URL", database.app_dsn)
        page.run(holding="def work(")
        async with page["runner"]() as runner, runner, asyncio.timeout(20):
            assert isinstance(runner, Runner)
            while await admin.fetchval("SELECT count(*) FROM jobs WHERE finished_at IS NULL") > 1:
                await asyncio.sleep(0.01)
        async with asyncio.timeout(20):  # and it has closed what it has opened
            while await admin.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = $1",
                APP_ROLE,
            ):
                await asyncio.sleep(0.01)
        monkeypatch.setenv("DATABASE_URL", database.admin_dsn)
        printed = capsys.readouterr().out.splitlines()
        assert printed[0] == "welcome ann"
        assert {"welcome bob", f"other {{'started': {COPY_FROM}}}", "other {'newsletter': 'a99'}"} <= set(
            printed
        )

        columns = {
            name
            for cell in re.findall(r"^\| (`.*?) \|", page.text, re.MULTILINE)
            for name in re.findall(r"\w+", cell)
        }
        assert columns == set(SHAPE.column_types) | {"finished_at", "discarded_at"}
        (delete,) = re.findall(r"`(DELETE [^`]*)`", page.text)
        assert await admin.execute(delete) == "DELETE 0"

        text = await run(down)
        with pytest.raises(asyncpg.RaiseError, match="tasks are pending in jobs"):
            await admin.execute(text)
        await admin.execute("DELETE FROM jobs WHERE finished_at IS NULL")
        await admin.execute(text)
        assert await admin.fetchval("SELECT to_regclass('jobs')") is None
    finally:
        await admin.close()


def test_its_test(capsys: pytest.CaptureFixture[str]) -> None:
    page = Page("queue-table.md")
    for text in ("queue(", "sign_up", "remind", "newsletter", "view", "work"):
        page.run(holding=text)
    page.run(holding="def test_work(")
    page["test_work"]()
    assert capsys.readouterr().out == "welcome ann@example.org\n"
    assert page.done


def test_the_numbers() -> None:
    text = Page("queue-table.md").text
    assert f"From {COPY_FROM} on they go by COPY" in text
    assert Settings().poll_interval == 1
