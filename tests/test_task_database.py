"""The fixture `task_database`: a database of a block's own."""

from __future__ import annotations

from secrets import token_hex
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from session_lock import DatabaseError, SessionLockError, SettingsError, embedded, queue
from session_lock.testing.kit import postgres_server, task_database

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


# A server that will not do -----------------------------------------------------------------------------------


async def test_no_server_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SESSION_LOCK_TEST_DSN", raising=False)
    monkeypatch.delenv("SESSION_LOCK_PG_BIN", raising=False)
    monkeypatch.setattr(embedded, "find_spec", lambda _: None)
    with (
        pytest.raises(
            SessionLockError,
            match=r"set SESSION_LOCK_PG_BIN; or SESSION_LOCK_TEST_DSN to the DSN of a superuser",
        ),
        postgres_server(),
    ):
        pass


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("nonsense", "SESSION_LOCK_TEST_DSN is not understood: write postgresql://"),
        ("postgresql+asyncpg://postgres:s3cret@{host}/postgres", "SESSION_LOCK_TEST_DSN begins with postgresql+asyncpg://, which names a driver"),
        ("postgresql://postgres:s3cret@127.0.0.1:1/db", "SESSION_LOCK_TEST_DSN: there is no server at 127.0.0.1:1/db ("),
        ("postgresql://postgres:s3cret@{host}/postgres", "SESSION_LOCK_TEST_DSN: {host}/postgres does not let us in ("),
        ("postgresql://{admin}/no_such_db", "SESSION_LOCK_TEST_DSN: there is no such database at {host}/no_such_db ("),
        ("postgresql://{role}:s3cret@{host}/postgres", "SESSION_LOCK_TEST_DSN: its role may not create databases at {host}/postgres: let it be a superuser's DSN"),
    ],
)  # fmt: skip
async def test_a_server_of_the_environment_that_will_not_do(
    server_dsn: str, dsn: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = urlsplit(server_dsn).netloc
    places = {"admin": admin, "host": admin.rpartition("@")[2], "role": f"may_not_{token_hex(6)}"}
    monkeypatch.setenv("SESSION_LOCK_TEST_DSN", dsn.format(**places))
    connection = await asyncpg.connect(server_dsn)
    await connection.execute(f"CREATE ROLE {places['role']} LOGIN PASSWORD 's3cret'")
    try:
        with pytest.raises((SettingsError, DatabaseError)) as raised, postgres_server() as given:  # noqa: PT012
            async with task_database(given)():
                pass
    finally:
        await connection.execute(f"DROP ROLE {places['role']}")
        await connection.close()
    assert str(raised.value).startswith(expected.format(**places))
    assert "s3cret" not in str(raised.value)


async def test_a_fixture_of_the_users_that_will_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SESSION_LOCK_TEST_DSN", raising=False)
    with pytest.raises(
        DatabaseError, match="^the fixture postgres_server: there is no server at 127.0.0.1:1/db"
    ):
        async with task_database("postgresql://127.0.0.1:1/db")():
            pass
