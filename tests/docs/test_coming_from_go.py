"""docs/how-to/coming-from-go.md: a table that the Go library had, moved over."""

from __future__ import annotations

import re

import asyncpg

from session_lock import PostgresDatabase
from session_lock.migrations import install
from session_lock.testing import run_until_idle
from tests.conftest import TestDatabase
from tests.docs.pages import Page

OLD = """
CREATE TABLE session (id bigserial PRIMARY KEY, expires timestamp);
CREATE TABLE work_lock (id int PRIMARY KEY);
CREATE TABLE user_entry (id bigserial PRIMARY KEY, finished timestamptz, session_id bigint);
INSERT INTO user_entry (finished, session_id) SELECT CASE WHEN i > 5 THEN now() END, i % 3 FROM generate_series(1, 9) AS i;
"""


async def test_its_table_is_moved(database: TestDatabase) -> None:
    page = Page("coming-from-go.md")
    page.run(holding="claim_columns")
    assert page.done
    admin = await asyncpg.connect(database.admin_dsn)
    try:
        await admin.execute(OLD)
        await install(admin, page["entries"])
        async with PostgresDatabase(database.admin_dsn, page["entries"]) as tasks:
            assert await run_until_idle(tasks, page["tasker"]) == 5
            (after,) = re.findall(r"(?ms)^```sql\n(.*?)^```$", page.text)
            await admin.execute(after)
            await admin.execute("UPDATE user_entry SET finished = NULL WHERE id = 7")
            assert await run_until_idle(tasks, page["tasker"]) == 1
        assert await admin.fetchval("SELECT count(*) FROM user_entry WHERE finished IS NULL") == 0
    finally:
        await admin.close()
