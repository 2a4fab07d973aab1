"""docs/how-to/operate.md: what it shows is what is printed, and what it grants is enough."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import asyncpg
import pytest

from session_lock import PostgresDatabase, Settings, TaskTable
from session_lock.cli import main
from session_lock.migrations import install
from tests.conftest import APP_ROLE, TestDatabase
from tests.docs.pages import Page

PAGE = Page("operate.md")
SHOWN = re.findall(r"^\$ session-lock (.*)\n((?:(?!```|\$).*\n)+)", PAGE.text, flags=re.MULTILINE)
GRANT = re.search(r"^```sql\n(.*?)^```$", PAGE.text, flags=re.MULTILINE | re.DOTALL)[1]

JOBS = 'from session_lock import TaskTable\nmails = TaskTable("mail", key="id", pending="sent_at IS NULL", finish="sent_at = now()")\n'


async def test_what_it_shows_and_grants(
    database: TestDatabase,
    write_jobs: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_jobs(JOBS)
    names: dict[str, TaskTable] = {}
    exec(JOBS, names)
    admin = await asyncpg.connect(database.admin_dsn)
    try:
        await admin.execute("CREATE TABLE mail (id bigint PRIMARY KEY, sent_at timestamptz)")
        await install(admin, names["mails"], grant_to=APP_ROLE)
        await admin.execute("INSERT INTO mail SELECT generate_series(1, 5)")
        await admin.execute("ALTER TABLE session_lock.session ALTER id RESTART WITH 17")
        async with PostgresDatabase(database.app_dsn, names["mails"]) as mails:
            for label, count in (("web-1:212", 3), ("web-2:7", 2)):
                lease = await mails.start_session(capacity=Settings().capacity(100), ttl=30, label=label)
                await mails.get_work(lease, limit=count, over_share=True)
                await mails.bump_session(lease, ttl=30, draining=False, running=count)
        assert [command.split()[0] for command, _ in SHOWN] == ["pause", "resume", "sessions", "drain"]
        for command, output in SHOWN:
            assert await asyncio.to_thread(main, [*command.split(), "--dsn", database.admin_dsn]) == 0
            assert capsys.readouterr().out == output
        await admin.execute(GRANT.replace("operator", APP_ROLE))
        for command in ("pause jobs:mails", "resume jobs:mails", "drain jobs:mails 18"):
            assert await asyncio.to_thread(main, [*command.split(), "--dsn", database.app_dsn]) == 0
    finally:
        await admin.close()


def test_the_interval() -> None:
    assert f"`keepalive_interval` ({Settings().keepalive_interval:g} s)" in PAGE.text
