"""docs/explanation/leases.md: its play, on a database in memory and on PostgreSQL."""

from __future__ import annotations

import re

import asyncpg
import pytest

from session_lock import PostgresDatabase, TaskTable
from session_lock.migrations import install
from session_lock.testing import MemoryDatabase
from tests.conftest import TestDatabase
from tests.docs.pages import Page

JOBS = TaskTable("job", key="id", pending="done_at IS NULL", finish="done_at = now()")


@pytest.mark.parametrize("kind", ["memory", "postgres"])
async def test_the_zombie_is_refused(database: TestDatabase, kind: str) -> None:
    page = Page("leases.md", folder="explanation")
    (block,) = page.blocks
    page.blocks = [re.sub(r"(?m)^asyncio.run\(.*\)\n", "", block)]
    page.run(holding="async def play(database):")
    if kind == "memory":
        settled, said = await page["play"](MemoryDatabase({7: None}))
    else:
        connection = await asyncpg.connect(database.admin_dsn)
        await connection.execute(
            "CREATE TABLE job (id int PRIMARY KEY, done_at timestamptz); INSERT INTO job VALUES (7)"
        )
        await install(connection, JOBS)
        await connection.close()
        async with PostgresDatabase(database.admin_dsn, JOBS) as tasks:
            settled, said = await page["play"](tasks)
    assert [each.outcome for each in settled] == ["finished"]
    assert "session" in said
