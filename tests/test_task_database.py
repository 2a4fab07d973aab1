"""The fixture `task_database`: a database of a block's own."""

from __future__ import annotations

import asyncpg
import pytest

from session_lock import queue
from session_lock.testing.kit import task_database

JOBS = queue("jobs")


@pytest.mark.parametrize("sql", [(), ("", JOBS), (" \n", JOBS), ("CREATE TABLE mine ()", JOBS)])
async def test_tables_of_the_users_own_are_no_condition(server_dsn: str, sql: tuple[object, ...]) -> None:
    async with task_database(server_dsn)(*sql) as dsn:
        connection = await asyncpg.connect(dsn)
        names = ("jobs", "mine")
        there = [await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", name) for name in names]
        await connection.close()
    assert there == [JOBS in sql, "mine" in str(sql)]
