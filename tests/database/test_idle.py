"""`run_until_idle` on PostgreSQL: what stands before the place where the last look found its tasks is seen too."""

from __future__ import annotations

import asyncpg

from session_lock import PostgresDatabase, Settings, TaskTable, each
from session_lock.migrations import install
from session_lock.testing import run_until_idle

JOBS = TaskTable("job", key="id", pending="NOT done", finish="done = true", order_by=("id",))
ONE_BY_ONE = Settings(concurrency=1, prefetch=0)


async def test_what_comes_before_the_others_is_done_too(database):
    admin = await asyncpg.connect(database.admin_dsn)
    try:
        await admin.execute("CREATE TABLE job (id int PRIMARY KEY, done bool NOT NULL DEFAULT false)")
        await admin.execute("INSERT INTO job SELECT generate_series(100, 120)")
        await install(admin, JOBS)

        async def insert_before(task):
            if task.key >= 100:  # and nobody is woken
                await admin.execute("INSERT INTO job VALUES ($1)", task.key - 100)

        async with PostgresDatabase(database.admin_dsn, JOBS) as jobs:
            assert await run_until_idle(jobs, each(insert_before), ONE_BY_ONE) == 42
        assert await admin.fetchval("SELECT count(*) FROM job WHERE NOT done") == 0
    finally:
        await admin.close()
