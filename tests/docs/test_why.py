"""docs/how-to/why.md: what it shows is what is printed, and it names all that `why` says."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import fields

import asyncpg
import pytest

from session_lock import PostgresDatabase, TaskTable, Why, reasons
from session_lock.cli import main
from session_lock.database import Handback
from session_lock.migrations import install
from tests.conftest import APP_ROLE, TestDatabase
from tests.docs.pages import Page

PAGE = Page("why.md")
FLAT = " ".join(PAGE.text.split())
SHOWN = re.findall(r"^\$ session-lock (.*)\n((?:(?!```|\$).*\n)+)", PAGE.text, flags=re.MULTILINE)

JOBS = """
from session_lock import TaskTable

mails = TaskTable(
    "mail", key="id", pending="sent_at IS NULL AND address IS NOT NULL", finish="sent_at = now()", columns=["address"]
)
"""


async def set_clock(admin: asyncpg.Connection, ago: int) -> None:
    await admin.execute(
        "CREATE OR REPLACE FUNCTION session_lock.clock() RETURNS timestamptz LANGUAGE sql"
        f" AS $$ SELECT timestamptz '2026-06-01 12:00+00' - interval '{ago} s' $$"
    )


@pytest.fixture
async def mails(database: TestDatabase, write_jobs: Callable[[str], None]) -> AsyncIterator[TestDatabase]:
    """The table of the page, with its two tasks; and its moment."""
    write_jobs(JOBS)
    names: dict[str, TaskTable] = {}
    exec(JOBS, names)
    admin = await asyncpg.connect(database.admin_dsn)
    try:
        await admin.execute("CREATE TABLE mail (id bigint PRIMARY KEY, address text, sent_at timestamptz)")
        await install(admin, names["mails"], grant_to=APP_ROLE)
        await admin.execute(
            "INSERT INTO mail (id, address, available_at) VALUES (4711, 'a', '2026-06-01 11:50+00'), (4712, NULL, '2026-06-01 11:53+00')"
        )
        async with PostgresDatabase(database.app_dsn, names["mails"]) as ours:
            await set_clock(admin, 360)
            await admin.execute("ALTER SEQUENCE session_lock.session_id_seq RESTART 17")
            session = await ours.start_session(capacity=1, ttl=600, label="web-1:212", app_version="2.4")
            [task] = (await ours.get_work(session, limit=1)).tasks
            error = "ConnectionError: no route to the mail server\nfrom OSError: .."
            await ours.release_tasks(session, [Handback(task.claim, after=60, error=error)])
            await set_clock(admin, 100)
            await ours.get_work(session, limit=1)
            await set_clock(admin, 2)
            await admin.execute(
                "UPDATE session_lock.session SET expires_at = session_lock.clock()  + interval '1 s'"
            )
            await ours.bump_session(session, ttl=30, draining=False)
            await set_clock(admin, 0)
            yield database
    finally:
        await admin.close()


@pytest.mark.parametrize("shown", SHOWN, ids=lambda shown: shown[0])
async def test_what_is_shown_is_printed(
    mails: TestDatabase, shown, capsys: pytest.CaptureFixture[str]
) -> None:
    command, output = shown
    assert await asyncio.to_thread(main, [*command.split(), "--dsn", mails.admin_dsn]) == 0
    assert capsys.readouterr().out == output


def test_two_are_shown() -> None:
    assert [command for command, _ in SHOWN] == ["why jobs:mails 4711", "why jobs:mails 4712"]


def test_the_names_of_the_json() -> None:
    [listed] = re.findall(r"under the same names at all times: (.*?);", FLAT)
    assert re.findall(r"`(\w+)`", listed) == [field.name for field in fields(Why)]


def test_it_quotes_the_sentences() -> None:
    quoted = re.findall(r"\*([^*|]+)\*", PAGE.text.partition("| it says |")[2])
    code = "".join(re.findall(r'"([^"]*)"', inspect.getsource(reasons)))
    assert len(quoted) == 21
    assert [text for text in quoted if text not in code] == []
