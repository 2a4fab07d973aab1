"""docs/how-to/duties.md: its group runs, its commands install, its test passes, and its numbers are the library's own."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime

import asyncpg
import pytest

from session_lock import planning
from session_lock.cli import main
from session_lock.schema import source
from tests.conftest import APP_ROLE, TestDatabase
from tests.docs.pages import Page
from tests.duties.conftest import PostgresGroup


async def test_the_group_of_the_page(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Page("duties.md")
    (command,) = re.findall(r"^session-lock (install .*)$", page.text, flags=re.MULTILINE)
    monkeypatch.setenv("DATABASE_URL", database.admin_dsn)
    words = command.replace("myservice", APP_ROLE).split()
    assert await asyncio.to_thread(main, [*words, "--yes"]) == 0
    assert await asyncio.to_thread(main, ["check", words[1], "--role", APP_ROLE]) == 0
    assert "is installed as it should be" in capsys.readouterr().out
    admin = await asyncpg.connect(database.admin_dsn)
    try:
        await admin.execute(
            f"CREATE TABLE public.report (due_at timestamptz); GRANT INSERT ON public.report TO {APP_ROLE}"
        )
        await PostgresGroup(admin, database.app_dsn).at(datetime(2026, 7, 1, 1, 29, 58, tzinfo=UTC))
        page.run(holding="def make_group(")
        async with page["make_group"](database.app_dsn):
            while not (due_at := await admin.fetchval("SELECT due_at FROM public.report")):
                await asyncio.sleep(0.05)
        assert due_at == datetime(2026, 7, 1, 1, 30, tzinfo=UTC)
    finally:
        await admin.close()


def test_the_test_of_the_page() -> None:
    page = Page("duties.md")
    page.run(holding="Duties(")
    page.run(holding="MemoryDuties(")
    page["test_a_weekend"]()
    assert page.done


def test_the_numbers_of_the_page() -> None:
    text = Page("duties.md").text
    assert f"latest {planning.MOST} |" in text
    assert f"No more than {planning.MOST} runs" in text
    assert planning.LATE.total_seconds() == 60
    assert "less than a minute ago" in text
    (days,) = re.findall(r"interval '(\d+) days'", source("duties.alwaysup.sql"))
    assert f"kept for {days} days" in text
