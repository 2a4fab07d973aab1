"""The fixture `task_database`: a database of a block's own."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from session_lock import SettingsError, queue
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


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((JOBS, ""), "not a TaskTable in place of the SQL"),
        (("", [JOBS]), "not a list in place of a mapping"),
        (("", JOBS, "jobs"), "not a str in place of a mapping"),
        ((None,), "not a NoneType in place of the SQL"),
    ],
)
async def test_what_is_no_sql_and_no_mapping(given: Any, expected: str) -> None:
    with pytest.raises(SettingsError, match=f"^task_database takes SQL, then mappings: .*{expected}$"):
        async with task_database("postgresql://nowhere")(*given):
            pass
